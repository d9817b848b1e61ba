"""What the files of a score folder are called, and which of them say that others are complete."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath

from clipdre.formats.files.storage import REPLACEMENT, is_unfinished

MANIFEST = "manifest.json"
# Everything that a run writes below its folder, besides the manifest.
PARTS = ("scores", "failures", "embeddings", "reference", "columns")
# Subfolder for the replacement of an earlier plan until its embeddings have been taken over.
ABANDONED = ".abandoned"
# Manifests that say which run a store holds.
PLANS = (MANIFEST, f"{REPLACEMENT}/{MANIFEST}")
# Files that say that others are complete, besides manifests and the tables of ``metadata/``.
MARKS = ("reference.json", "record.json", ".asked.json", ".plan.json")


def leftovers(listed: Collection[str]) -> set[str]:
    """Return what is left of a replacement whose removal was interrupted after its manifest."""
    gone = [part for part in (REPLACEMENT, ABANDONED) if f"{part}/{MANIFEST}" not in listed]
    return {name for name in listed if PurePosixPath(name).parts[0] in gone}


def is_ours(name: str) -> bool:
    """Whether a name is that of a score folder's file: stores hold any names, even with ``..``."""
    parts = PurePosixPath(name).parts
    if (
        str(PurePosixPath(name)) != name
        or ".." in parts
        or "\0" in name
        or is_unfinished(parts[-1])
    ):
        return False
    inner = parts[1:] if parts[0] in (REPLACEMENT, ABANDONED) else parts
    return inner == (MANIFEST,) or (len(inner) > 1 and inner[0] in PARTS)


def is_below(name: str, asked: set[str]) -> bool:
    """Whether a file is one of those that are asked for, or in a folder that is; ``.`` is all."""
    return not asked.isdisjoint([name, *map(str, PurePosixPath(name).parents)])


def is_light(name: str) -> bool:
    """Whether all readers need a file: not vectors, nor what scorers keep to learn from."""
    parts = PurePosixPath(name).parts
    if parts[0] in (REPLACEMENT, ABANDONED):
        return parts[1:] == (MANIFEST,)
    if parts[0] in ("embeddings", "reference"):
        return parts[-1] == "reference.json"
    return not any(part.startswith(".") for part in parts)


def is_plan(name: str) -> bool:
    """Whether a file is a manifest: that of the scores, or of what is to replace them."""
    return PurePosixPath(name).name == MANIFEST


def is_mark(name: str) -> bool:
    """Whether a file says that others are complete."""
    path = PurePosixPath(name)
    return path.name in (MANIFEST, *MARKS) or path.parent.name == "metadata"
