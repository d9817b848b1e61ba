"""Samples of shards, and the reasons why a sample cannot be used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Reasons why a sample has no scores."""

    BROKEN_TAR = "broken_tar"
    GARBAGE = "garbage"
    NOT_A_TAR = "not_a_tar"
    COMPRESSED_TAR = "compressed_tar"
    EMPTY_FILE = "empty_file"
    UNREADABLE_SHARD = "unreadable_shard"
    WORKER_DIED = "worker_died"
    NOT_A_FILE = "not_a_file"
    CAPTION_TOO_LARGE = "caption_too_large"
    DUPLICATE_MEMBER = "duplicate_member"
    MEMBER_TOO_LARGE = "member_too_large"
    MISSING_IMAGE = "missing_image"
    MISSING_CAPTION = "missing_caption"
    EMPTY_CAPTION = "empty_caption"
    INVALID_CAPTION = "invalid_caption"
    UNREADABLE_IMAGE = "unreadable_image"
    IMAGE_TOO_LARGE = "image_too_large"
    EXTREME_ASPECT_RATIO = "extreme_aspect_ratio"
    BROKEN_FILE = "broken_file"
    MISALIGNED_ROWS = "misaligned_rows"
    NON_FINITE_EMBEDDING = "non_finite_embedding"


class Stage(StrEnum):
    """Stage in which a sample failed."""

    READ = "read"
    DECODE = "decode"
    ENCODE = "encode"


@dataclass(frozen=True)
class Failure:
    """A sample without scores, or the part of a shard that cannot be read."""

    key: str
    offset: int
    stage: Stage
    reason: Reason
    message: str


class NoteKind(StrEnum):
    """Kinds of notes."""

    NO_END_MARKER = "no_end_marker"
    FEWER_SAMPLES = "fewer_samples"
    PASSED_OVER = "passed_over"


@dataclass(frozen=True)
class Note:
    """What else there is to know about a shard; it is not a sample.

    Attributes
    ----------
    offset : int
    count : int
        Samples or members concerned, or 1.
    """

    kind: NoteKind
    offset: int
    count: int
    message: str


@dataclass(frozen=True)
class Sample:
    """A sample as stored in its shard.

    Attributes
    ----------
    key : str
    offset, nbytes : int
        Byte span of the sample's members in the (uncompressed) tar, headers and padding included.
    image : bytes
        Encoded image.
    caption : str
    uid : str or None
        ``uid`` from the sample's json member, if it has one.
    image_span : (int, int) or None
        Where the image's own bytes begin in the tar, and how many there are; None if the tar is
        compressed.
    caption_source : str
        Which of several captions it is, such as ``txt`` or ``json:title``; empty if there is one.
    kept : tuple of (str or None)
        Fields of the json member that the reading settings keep, as JSON; None if missing.
    """

    key: str
    offset: int
    nbytes: int
    image: bytes
    caption: str
    uid: str | None
    image_span: tuple[int, int] | None = None
    kept: tuple[str | None, ...] = ()
    caption_source: str = ""


def printable(text: str) -> str:
    """Return `text` as valid UTF-8: lone surrogates, also from undecodable names, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def json_object(raw: bytes | None) -> dict[str, object]:
    """Parse a json member; empty if it is missing, damaged, or not an object."""
    try:
        value = json.loads(raw) if raw is not None else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def kept_json(value: object, limit: int) -> str | None:
    """Return a field of a json member as JSON; None if it is null or longer than `limit` bytes."""
    try:
        text = None if value is None else printable(json.dumps(value, ensure_ascii=False))
    except RecursionError:
        return None
    return None if text is None or len(text.encode()) > limit else text
