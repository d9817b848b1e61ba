"""Finds samples in tars by uid or key: for scores that were made without these tars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from clipdre.formats.tars.shards import json_object
from clipdre.formats.tars.tar import BrokenTarError, Gap, iter_members

MAX_JSON_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Located:
    """A sample's names and its byte span."""

    key: str
    uid: str | None
    offset: int
    nbytes: int


def locate(file: BinaryIO, wanted: Callable[[str], bool]) -> Iterator[Located]:
    """Samples of a tar whose uid or key is `wanted`, in order; only json members are read.

    What follows a break in the archive is not found.
    """
    key, uid, start, end = "", None, 0, 0
    try:
        for member in iter_members(file):
            if isinstance(member, Gap):
                continue
            if member.key != key or not end:
                if end and (wanted(key) or (uid is not None and wanted(uid))):
                    yield Located(key, uid, start, end - start)
                key, uid, start = member.key, None, member.offset
            end = member.end
            if member.suffix == "json" and not member.odd and member.size <= MAX_JSON_BYTES:
                found = json_object(member.read()).get("uid")
                uid = found if isinstance(found, str) else None
    except BrokenTarError:
        return
    if end and (wanted(key) or (uid is not None and wanted(uid))):
        yield Located(key, uid, start, end - start)
