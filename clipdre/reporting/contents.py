"""What a score folder holds besides scores: examples of failures, and files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from clipdre.errors import ScoresError
from clipdre.formats.folders.folder import PARTS, FailureExample, ScoreFolder
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
    """Return the bytes on disk of each part of a score folder, the largest first."""
    parts = {part: _nbytes(folder.path / part) for part in PARTS}
    parts["replacement"] = _nbytes(folder.replacement.path)
    return {name: size for name, size in sorted(parts.items(), key=lambda p: -p[1]) if size}


def _nbytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
