"""Whether a score folder holds the run that is planned, or how it differs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

from clipdre.config import ReadConfig
from clipdre.errors import ScoresError
from clipdre.formats.files.storage import SourceIdentity
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest, read_manifest
from clipdre.formats.folders.records import ShardRecord, builtins
from clipdre.words import changed

# Settings that older manifests do not have.
LATER_SETTINGS = {"alike", "own"}
DEFAULTS = builtins(ReadConfig())


def same_run(folder: ScoreFolder, planned: Manifest) -> Manifest | None:
    """Return the manifest in `folder` if it is that of the planned run; None if there is none."""
    if folder.is_new():
        return None
    found = read_manifest(folder.path)
    redefined = found.model.redefined(planned.model)
    differences = [f"model {redefined}"] if redefined else []
    differences += [
        f"{name} ({changed(before, now)})"
        for name, before, now in _compared(found, planned)
        if before != now
    ]
    differences += _changed_shards(found.shards, planned.shards)
    if differences:
        raise ScoresError(
            f"{folder.path} holds a run that differs in {'; '.join(differences[:3])}",
            "choose another `output`, or pass `overwrite`",
        )
    if planned.model.fingerprint and not found.model.fingerprint:
        warnings.warn(
            f"{folder.path} was begun by a clipdre that recorded only the weights of "
            f"{found.model.name}, so a change of its definition would not be noticed; pass "
            "`overwrite` if it has changed since",
            stacklevel=2,
        )
    return found


def _compared(found: Manifest, planned: Manifest) -> Iterator[tuple[str, object, object]]:
    for name in ("name", "pretrained", "digest", "precision"):
        yield f"model {name}", getattr(found.model, name), getattr(planned.model, name)
    for stage, settings in planned.settings.items():
        then = found.settings.get(stage, {})
        for name in dict.fromkeys([*settings, *then]):
            if name in then or name not in LATER_SETTINGS:
                default = DEFAULTS.get(name)
                yield f"{stage} {name}", then.get(name, default), settings.get(name, default)
    yield "number of shards", len(found.shards), len(planned.shards)


def _changed_shards(found: Sequence[ShardRecord], planned: Sequence[ShardRecord]) -> Iterator[str]:
    for n, (before, now) in enumerate(zip(found, planned, strict=False), start=1):
        if before.name != now.name:
            yield f"shard {n} ({changed(before.name, now.name)})"
        elif identity_of(before) != identity_of(now):
            identity = SourceIdentity(now.nbytes, now.modified)
            yield f"shard {now.name} ({identity.difference(before.nbytes)})"


def identity_of(shard: ShardRecord) -> tuple[str, int, str]:
    """Return what decides whether a shard is the one that was scored."""
    return shard.name, shard.nbytes, shard.modified
