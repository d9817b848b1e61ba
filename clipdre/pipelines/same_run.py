"""Whether a score folder holds the run that is planned, how the plan continues it, or differs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from clipdre.config import ReadConfig, RunConfig
from clipdre.errors import ScoresError
from clipdre.formats.files.storage import SourceIdentity, absolute
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest, read_manifest
from clipdre.formats.folders.moved import find_moved, has_content_of
from clipdre.formats.folders.records import ShardRecord, builtins
from clipdre.formats.tars.places import shard_names
from clipdre.words import changed, count

# Settings that older manifests do not have.
LATER_SETTINGS = {"alike", "own"}
DEFAULTS = builtins(ReadConfig())
# Shards that are named in a message.
NAMED = 3


def continued(folder: ScoreFolder, found: Manifest, planned: Manifest, run: RunConfig) -> Manifest:
    """Return the plan as it continues a run: shards keep their names, and the model its record.

    Parameters
    ----------
    found : Manifest
        Of the run that is continued; it may be finished.

    Raises
    ------
    ScoresError
        If the plan is for another model or other reading options, or lacks a shard of the run.
    """
    _check_reading(folder, found, planned)
    kept = _matched(found.shards, planned.shards)
    if not run.prune:
        _check_whole(folder, found.shards, planned.shards, kept)
    elif not kept:
        raise ScoresError(
            f"{folder.path} has scores of none of these shards, so `prune` would drop all of them",
            "choose another `output`, or pass `overwrite`",
        )
    settings, keeps = planned.settings, run.keep_reference and found.complete
    if keeps:
        tau = {"tau": settings["estimate"]["tau"]}
        settings = settings | {"estimate": found.settings["estimate"] | tau}
        keeps = settings["estimate"].get("saved") is None
    urls = [shard.url for shard in planned.shards]
    names = shard_names(urls, {url: shard.name for url, shard in kept.items()})
    shards = {
        name: msgspec.structs.replace(
            shard,
            name=name,
            # Files are stamped with the time that was found first.
            modified=kept[shard.url].modified if shard.url in kept else shard.modified,
            after_reference=keeps and (shard.url not in kept or kept[shard.url].after_reference),
        )
        for name, shard in zip(names, planned.shards, strict=True)
    }
    before = [shard.name for shard in found.shards]
    same = set(before) == set(names) and len(kept) == len(names)
    return msgspec.structs.replace(
        planned,
        model=found.model,
        settings=settings,
        shards=tuple(shards[name] for name in (before if same else sorted(names))),
        keeps_reference=keeps and (found.keeps_reference or not same),
    )


def difference(found: Manifest, planned: Manifest) -> list[str]:
    """Return what a plan from `continued` changes about the run that was found, in words."""
    before = {identity_of(shard): shard for shard in found.shards}
    now = set(map(identity_of, planned.shards))
    new = len(now - before.keys())
    gone = [shard for identity, shard in before.items() if identity not in now]
    lines = [f"encoding {new:,} of {count(len(now), 'shard')}" if new else "nothing to encode"]
    if gone:
        more = f" and {len(gone) - NAMED:,} more" if len(gone) > NAMED else ""
        rows, names = sum(shard.rows for shard in gone), [shard.name for shard in gone]
        lines.append(
            f"dropping {count(rows, 'row')} of shards that are gone or have changed: "
            f"{', '.join(names[:NAMED])}{more}"
        )
    return lines


def settled_differences(found: Manifest, planned: Manifest) -> list[str]:
    """Return in which settings of the reference, or shards, a plan differs from a run; in words."""
    differences = list(_differences(found, planned, "estimate"))
    before, now = (len(manifest.shards) for manifest in (found, planned))
    if before != now:
        differences.append(f"the number of shards ({changed(before, now)})")
    elif set(map(identity_of, found.shards)) != set(map(identity_of, planned.shards)):
        differences.append("its shards, which have changed")
    return differences or ["how it uses the reference (`keep_reference`)"]


def is_same_run(found: Manifest, planned: Manifest) -> bool:
    """Whether a plan from `continued` is the very run that was found."""
    return (
        list(map(identity_of, found.shards)) == list(map(identity_of, planned.shards))
        and found.keeps_reference == planned.keeps_reference
        and not any(_differences(found, planned, "estimate"))
    )


def is_begun(folder: ScoreFolder, planned: Manifest) -> bool:
    """Whether the folder is empty, or holds an unfinished part of the planned run."""
    if folder.is_new():
        return True
    try:
        found = read_manifest(folder.path)
        _check_reading(folder, found, planned)
    except ScoresError:
        return False
    return not found.complete and is_same_run(found, planned)


def identity_of(shard: ShardRecord) -> tuple[str, int, str]:
    """Return what decides whether a shard is the one that was scored."""
    return shard.name, shard.nbytes, shard.modified


def _check_reading(folder: ScoreFolder, found: Manifest, planned: Manifest) -> None:
    """Refuse to continue a run with another model, or with other options of reading."""
    redefined = found.model.redefined(planned.model)
    differences = [f"model {redefined}"] if redefined else []
    for name in ("inner_product", "name", "pretrained", "digest", "precision"):
        before, now = getattr(found.model, name), getattr(planned.model, name)
        if before != now:
            differences.append(f"model {name} ({changed(before, now)})")
    differences += _differences(found, planned, "read")
    if differences:
        raise ScoresError(
            f"{folder.path} holds a run that differs in {'; '.join(differences[:NAMED])}",
            "choose another `output`, or pass `overwrite`",
        )
    if planned.model.fingerprint and not found.model.fingerprint:
        warnings.warn(
            f"{folder.path} was begun by a clipdre that recorded only the weights of "
            f"{found.model.name}, so a change of its definition would not be noticed; pass "
            "`overwrite` if it has changed since",
            stacklevel=2,
        )


def _differences(found: Manifest, planned: Manifest, stage: str) -> Iterator[str]:
    then, now = found.settings.get(stage, {}), planned.settings[stage]
    for name in dict.fromkeys([*now, *then]):
        if name in then or name not in LATER_SETTINGS:
            default = DEFAULTS.get(name)
            before, after = then.get(name, default), now.get(name, default)
            if before != after:
                yield f"{stage} {name} ({changed(before, after)})"


def _matched(
    found: Sequence[ShardRecord], planned: Sequence[ShardRecord]
) -> dict[str, ShardRecord]:
    """Return the shard that each planned URL was found to be, if it is one and has not changed."""
    now = {shard.url: shard for shard in planned}
    by_path = {absolute(shard.url): shard for shard in found}
    here = {url: by_path[path] for url in now if (path := absolute(url)) in by_path}
    same = {url: shard for url, shard in here.items() if _is_same(shard, now[url])}
    met = {shard.name for shard in here.values()}
    gone = [shard for shard in found if shard.name not in met]
    moved = find_moved(gone, now.keys() - here.keys(), lambda s, url: _is_same(s, now[url]))
    by_name = {shard.name: shard for shard in gone}
    return same | {url: by_name[name] for name, url in moved.items()}


def _is_same(before: ShardRecord, now: ShardRecord) -> bool:
    """Whether a file is the shard that was scored; one that was copied or touched is."""
    if before.nbytes == now.nbytes and before.modified == now.modified:
        return True
    return bool(before.sample) and has_content_of(before, now.url, now.nbytes)


def _check_whole(
    folder: ScoreFolder,
    found: Sequence[ShardRecord],
    planned: Sequence[ShardRecord],
    kept: Mapping[str, ShardRecord],
) -> None:
    """Refuse a plan that lacks shards of the run, and name them."""
    left = {shard.name for shard in kept.values()}
    now = {absolute(shard.url): shard for shard in planned}
    gone = [_gone(shard, now) for shard in found if shard.name not in left]
    if gone:
        more = f" and {len(gone) - NAMED:,} more" if len(gone) > NAMED else ""
        raise ScoresError(
            f"{folder.path} has scores of {count(len(gone), 'shard')} that these `shards` do not "
            f"hold: {', '.join(gone[:NAMED])}{more}",
            "give all `shards` of the pool, wherever they are now; pass `prune` to drop the rows "
            "of those that are gone or have changed, or choose another `output`",
        )


def _gone(shard: ShardRecord, now: Mapping[str, ShardRecord]) -> str:
    here = now.get(absolute(shard.url))
    if here is None:
        return f"{shard.name} ({shard.place})"
    difference = SourceIdentity(here.nbytes, here.modified).difference(shard.nbytes)
    return f"{shard.name} (changed: {difference})"
