"""Group the members of a tar into samples, as webdataset does: adjacent members with one key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from clipdre.formats.tars.samples import Failure, Note, NoteKind, Reason, Stage
from clipdre.formats.tars.tar import BrokenTarError, Gap, Member, NoEnd, iter_members
from clipdre.words import count

CUT = (
    "no end-of-archive marker: the tar may have been cut off between two members; compare its size "
    "with the original's"
)


@dataclass
class Group:
    """Adjacent members with one key.

    Attributes
    ----------
    key : str
    offset, end : int
        Byte span of the members, headers and padding included.
    content : dict of str to bytes
        What the reader kept of the members.
    failure : (Reason, str) or None
        Why the sample cannot be used: the first reason found, with a message.
    image_span : (int, int) or None
        Where the image's own bytes begin, and how many there are.
    too_long : dict of str to int
        Suffixes of captions that were not read, and their sizes.
    """

    key: str
    offset: int
    end: int = 0
    content: dict[str, bytes] = field(default_factory=dict)
    failure: tuple[Reason, str] | None = None
    image_span: tuple[int, int] | None = None
    too_long: dict[str, int] = field(default_factory=dict)

    def fail(self, reason: Reason, message: str) -> None:
        """Record a failure unless there is one already."""
        self.failure = self.failure or (reason, message)


def iter_groups(
    file: BinaryIO, add: Callable[[Group, Member], None]
) -> Iterator[Group | Failure | Note]:
    """Yield the groups of a tar in order, and a `Failure` for damage between or behind them.

    Each member that is passed over is a `Note`; it separates nothing, so its neighbours may form
    one group. An archive without an end gives another `Note`.

    Parameters
    ----------
    file : binary file, seekable
    add : callable
        Keeps what it needs of each member in the group.
    """
    group: Group | None = None
    gap = False
    try:
        for member in _members(file):
            if not isinstance(member, Member):
                gap = gap or isinstance(member, Failure)
                yield member
                continue
            if group is None or member.key != group.key:
                if group is not None:
                    yield group
                group = Group(member.key, member.offset)
            elif gap:
                group.fail(Reason.GARBAGE, "there is garbage between its members")
            gap = False
            group.end = member.end
            add(group, member)
    except BrokenTarError as error:
        key = group.key if group is not None and group.offset <= error.offset < group.end else ""
        if group is not None and not key:
            yield group
        message = f"{error}; the rest of the shard is lost"
        yield Failure(key, error.offset, Stage.READ, error.reason, message)
        return
    if group is not None:
        yield group


def _members(file: BinaryIO) -> Iterator[Member | Failure | Note]:
    """Yield the members that belong to samples, and what else there is to know of the tar."""
    for member in iter_members(file):
        if isinstance(member, Gap):
            message = f"{member.message}; {count(member.end - member.offset, 'byte')} lost"
            yield Failure("", member.offset, Stage.READ, Reason.GARBAGE, message)
        elif isinstance(member, NoEnd):
            yield Note(NoteKind.NO_END_MARKER, member.offset, 1, CUT)
        elif member.passed_over:
            message = f"{member.name!r} belongs to no sample"
            yield Note(NoteKind.PASSED_OVER, member.offset, 1, message)
        else:
            yield member
