"""Find samples in tars by uid or key, for scores that were computed without these tars."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from clipdre.config import ReadConfig
from clipdre.formats.files.storage import is_compressed
from clipdre.formats.tars.groups import Group, iter_groups
from clipdre.formats.tars.samples import json_object, printable
from clipdre.formats.tars.tar import Member

MAX_JSON_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Located:
    """Names and byte span of a sample, and where its image is in an uncompressed tar."""

    key: str
    uid: str | None
    offset: int
    nbytes: int
    image_span: tuple[int, int] | None = None


def locate(
    file: BinaryIO,
    wanted: Callable[[str], bool],
    image_suffixes: Container[str] = ReadConfig.image_suffixes,
) -> Iterator[Located]:
    """Yield the samples of a tar whose uid or key is `wanted`, in order.

    Only json members are read. Damaged samples are left out.
    """
    in_place = not is_compressed(file)

    def add(group: Group, member: Member) -> None:
        if member.suffix == "json" and not member.odd and member.size <= MAX_JSON_BYTES:
            group.content["json"] = member.read()
        if in_place and member.suffix in image_suffixes and not member.odd:
            group.image_span = member.data, member.size

    for group in iter_groups(file, add):
        if not isinstance(group, Group) or group.failure is not None:
            continue
        found = json_object(group.content.get("json")).get("uid")
        uid = found if isinstance(found, str) else None
        key = printable(group.key)  # as score tables have it
        if wanted(key) or (uid is not None and wanted(uid)):
            yield Located(key, uid, group.offset, group.end - group.offset, group.image_span)
