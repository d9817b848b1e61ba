"""What a score folder holds besides scores: examples of failures, and files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from clipdre.errors import ScoresError
from clipdre.formats.files.storage import REPLACEMENT
from clipdre.formats.folders.folder import FailureExample, ScoreFolder
from clipdre.formats.folders.layout import PARTS
from clipdre.formats.folders.manifest import Manifest


def failure_examples(folder: ScoreFolder, manifest: Manifest) -> dict[str, FailureExample]:
    """Return a failed sample for each reason, in the order of `Manifest.failures`.

    A reason whose file is missing or damaged has none: the other reasons are still worth showing.
    """
    found: dict[str, FailureExample] = {}
    for reason in manifest.failures:
        shard = next(shard.name for shard in manifest.shards if reason in shard.failures)
        with suppress(ScoresError):
            example = folder.failure_example(shard, reason)
            if example is not None:
                found[reason] = example
    return found


def disk_usage(folder: ScoreFolder) -> Mapping[str, int]:
    """Return the bytes of each part of a score folder, on disk or in its store, largest first."""
    stored = folder.store.sizes()
    parts = {
        name: _nbytes(folder.path / part) if stored is None else _below(part, stored)
        for name, part in [*zip(PARTS, PARTS, strict=True), ("replacement", REPLACEMENT)]
    }
    return {name: size for name, size in sorted(parts.items(), key=lambda p: -p[1]) if size}


def _below(part: str, stored: Mapping[str, int]) -> int:
    return sum(size for name, size in stored.items() if name.startswith(f"{part}/"))


def _nbytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
