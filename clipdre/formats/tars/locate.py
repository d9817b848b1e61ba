"""Find samples in tars by uid or key, for scores that were computed without these tars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from clipdre.formats.tars.groups import Group, iter_groups
from clipdre.formats.tars.samples import json_object, printable
from clipdre.formats.tars.tar import Member

MAX_JSON_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Located:
    """Names and byte span of a sample."""

    key: str
    uid: str | None
    offset: int
    nbytes: int


def locate(file: BinaryIO, wanted: Callable[[str], bool]) -> Iterator[Located]:
    """Yield the samples of a tar whose uid or key is `wanted`, in order.

    Only json members are read. Damaged samples are left out.
    """
    for group in iter_groups(file, _add):
        if not isinstance(group, Group) or group.failure is not None:
            continue
        found = json_object(group.content.get("json")).get("uid")
        uid = found if isinstance(found, str) else None
        key = printable(group.key)  # as score tables have it
        if wanted(key) or (uid is not None and wanted(uid)):
            yield Located(key, uid, group.offset, group.end - group.offset)


def _add(group: Group, member: Member) -> None:
    if member.suffix == "json" and not member.odd and member.size <= MAX_JSON_BYTES:
        group.content["json"] = member.read()
