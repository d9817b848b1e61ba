"""Reading options that `score` and `doctor` share."""

from __future__ import annotations

from collections.abc import Sequence

from clipdre.config import IMAGE_SUFFIXES, Decode, ReadConfig
from clipdre.errors import UsageError

IMAGE_KEY = ",".join(IMAGE_SUFFIXES)


def read_config(
    image_key: str,
    text_key: str | Sequence[str],
    max_member_bytes: int,
    max_json_bytes: int,
    max_caption_bytes: int,
    max_pixels: int,
    decode: Decode = Decode.EXACT,
    keep: Sequence[str] = (),
) -> ReadConfig:
    """Return the options as settings; `UsageError` if they make no sense."""
    suffixes = tuple(s.strip().lstrip(".").lower() for s in image_key.split(",") if s.strip())
    first, *more = map(_caption_key, [text_key] if isinstance(text_key, str) else text_key)
    kind, colon, field = first.partition(":")
    if len({first, *more}) < 1 + len(more):
        raise UsageError("a `text_key` is given twice", "drop one of them")
    if not suffixes:
        raise UsageError("`image_key` is empty", "name at least one suffix, such as jpg")
    return ReadConfig(
        image_suffixes=suffixes,
        caption_suffix=ReadConfig.caption_suffix if colon else kind,
        caption_field=field if colon else None,
        max_member_bytes=max_member_bytes,
        max_json_bytes=max_json_bytes,
        max_caption_bytes=max_caption_bytes,
        max_pixels=max_pixels,
        decode=decode,
        more_captions=tuple(more),
        keep=tuple(_kept(name) for given in keep for name in given.split(",")),
    )


def _caption_key(text_key: str) -> str:
    """Return a caption's suffix or ``json:FIELD`` in one spelling."""
    kind, colon, field = text_key.partition(":")
    if colon and (kind != "json" or not field):
        raise UsageError(f"invalid `text_key` {text_key}", "use a suffix, or json:FIELD")
    return text_key if colon else kind.lstrip(".").lower()


def _kept(name: str) -> str:
    kind, _, field = name.strip().partition(":")
    if kind != "json" or not field:
        raise UsageError(f"invalid `keep` {name.strip()}", "use json:FIELD")
    return field
