"""What the samples of a shard consist of, for whoever named a member that they do not have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice

from clipdre.formats.files.storage import open_source
from clipdre.formats.tars.samples import json_object, printable
from clipdre.formats.tars.tar import Member, iter_members

# Members that are looked at, bytes of those that are read, and names that are listed.
MEMBERS, JSON_BYTES, LISTED = 300, 1024 * 1024, 12


def members_seen(url: str) -> str:
    """Return the suffixes and json fields of a shard's first samples in words; empty if unknown.

    The most frequent come first.
    """
    suffixes, fields = Counter[str](), Counter[str]()
    try:
        with open_source(url) as file:
            for member in islice(iter_members(file), MEMBERS):
                if not isinstance(member, Member) or member.passed_over:
                    continue
                suffixes[member.suffix] += 1
                if member.suffix == "json" and not member.odd and member.size <= JSON_BYTES:
                    fields.update(list(json_object(member.read())))  # of a mapping it adds values
    except Exception:
        return ""
    found = [f"members {_listed(suffixes)}"] if suffixes else []
    return " and ".join([*found, *([f"json fields {_listed(fields)}"] if fields else [])])


def _listed(names: Counter[str]) -> str:
    most = [printable(name) for name, _ in names.most_common()]
    more = f" and {len(most) - LISTED:,} more" if len(most) > LISTED else ""
    return ", ".join(_shown(most[:LISTED])) + more


def _shown(names: Iterable[str]) -> Iterable[str]:
    return (name if name.isprintable() and len(name) <= 40 else repr(name[:40]) for name in names)
