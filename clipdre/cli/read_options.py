"""Reading options that `score` and `doctor` share."""

from __future__ import annotations

from collections.abc import Sequence

from clipdre.config import IMAGE_SUFFIXES, Decode, ReadConfig
from clipdre.errors import UsageError

IMAGE_KEY = ",".join(IMAGE_SUFFIXES)


def read_config(
    image_key: str,
    text_key: str,
    max_member_bytes: int,
    max_json_bytes: int,
    max_caption_bytes: int,
    max_pixels: int,
    decode: Decode = Decode.EXACT,
    keep: Sequence[str] = (),
) -> ReadConfig:
    """Return the options as settings; `UsageError` if they make no sense."""
    suffixes = tuple(s.strip().lstrip(".").lower() for s in image_key.split(",") if s.strip())
    kind, colon, field = text_key.partition(":")
    if not suffixes:
        raise UsageError("`image_key` is empty", "name at least one suffix, such as jpg")
    if colon and (kind != "json" or not field):
        raise UsageError(f"invalid `text_key` {text_key}", "use a suffix, or json:FIELD")
    return ReadConfig(
        image_suffixes=suffixes,
        caption_suffix=ReadConfig.caption_suffix if colon else kind.lstrip(".").lower(),
        caption_field=field if colon else None,
        max_member_bytes=max_member_bytes,
        max_json_bytes=max_json_bytes,
        max_caption_bytes=max_caption_bytes,
        max_pixels=max_pixels,
        decode=decode,
        keep=tuple(_kept(name) for given in keep for name in given.split(",")),
    )


def _kept(name: str) -> str:
    kind, _, field = name.strip().partition(":")
    if kind != "json" or not field:
        raise UsageError(f"invalid `keep` {name.strip()}", "use json:FIELD")
    return field
