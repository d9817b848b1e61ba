"""Read a tar back before it gets its final name."""

from __future__ import annotations

import os
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

from clipdre.errors import OutputError
from clipdre.formats.tars.headers import BLOCK, plain_names
from clipdre.formats.tars.spans import RECORD
from clipdre.formats.tars.tar import BrokenTarError, Member, iter_members, split_name


def read_back(tar: Path, name: str, samples: int) -> set[str]:
    """Read the headers of a tar that was just written; return the suffixes of its members.

    Raises
    ------
    OutputError
        If `name` is not a whole tar of so many samples.
    """
    with open(tar, "rb") as file:
        names = _plain_names(file) or _all_names(file)
    keys = [split_name(member) for member in names]
    if sum(1 for _ in groupby(keys, itemgetter(0))) != samples:
        raise OutputError(
            f"{name} was written with {samples:,} samples, but does not read back so",
            "check the disk, and run the same command again",
        )
    return {suffix for _, suffix in keys}


def _plain_names(file: BinaryIO) -> list[str]:
    """Return the names of all members; none if any has an uncommon header."""
    names, at = plain_names(lambda at: os.pread(file.fileno(), BLOCK, at))
    rest = os.pread(file.fileno(), 2 * RECORD, at)
    return names if rest and not any(rest) else []


def _all_names(file: BinaryIO) -> list[str]:
    """Return the names of all members; none if anything is damaged."""
    try:
        members = list(iter_members(file))
    except BrokenTarError:
        return []
    whole = all(isinstance(member, Member) for member in members)
    return [member.name for member in members if isinstance(member, Member)] if whole else []
