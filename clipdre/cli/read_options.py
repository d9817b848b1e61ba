"""What of a shard is read, from the options that `score` and `doctor` share."""

from __future__ import annotations

import typer

from clipdre.config import IMAGE_SUFFIXES, Decode, ReadConfig

IMAGE_KEY = ",".join(IMAGE_SUFFIXES)


def read_config(
    image_key: str,
    text_key: str,
    max_member_bytes: int,
    max_json_bytes: int,
    max_caption_bytes: int,
    max_pixels: int,
    decode: Decode = Decode.EXACT,
) -> ReadConfig:
    """The options as settings; a usage error where they make no sense."""
    suffixes = tuple(s.strip().lstrip(".").lower() for s in image_key.split(",") if s.strip())
    kind, colon, field = text_key.partition(":")
    if not suffixes:
        raise typer.BadParameter("name at least one suffix, such as jpg", param_hint="--image-key")
    if colon and (kind != "json" or not field):
        raise typer.BadParameter("give a suffix, or json:FIELD", param_hint="--text-key")
    return ReadConfig(
        image_suffixes=suffixes,
        caption_suffix=ReadConfig.caption_suffix if colon else kind.lstrip(".").lower(),
        caption_field=field if colon else None,
        max_member_bytes=max_member_bytes,
        max_json_bytes=max_json_bytes,
        max_caption_bytes=max_caption_bytes,
        max_pixels=max_pixels,
        decode=decode,
    )
