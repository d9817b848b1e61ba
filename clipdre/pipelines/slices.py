"""Slices of a scoring run: several machines, one folder, the plan of whoever was first."""

from __future__ import annotations

from clipdre.config import RunConfig
from clipdre.errors import ScoresError, UsageError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.layout import MANIFEST
from clipdre.formats.folders.manifest import Manifest, read_manifest
from clipdre.pipelines.encoded import take_over
from clipdre.pipelines.same_run import NAMED, continued, is_begun, is_same_run, settled_differences
from clipdre.slices import OVERWRITES

CURE = "give each slice the same shards and options, or choose another `output`"
WITHOUT = "run the same command once without `slice`"


def join(folder: ScoreFolder, planned: Manifest, run: RunConfig) -> tuple[ScoreFolder, Manifest]:
    """Return the folder that the slices of a run write into, and the run's plan.

    The first slice writes the plan, and the others follow it: no lock is needed. Slices of a pool
    that has grown write beside the finished scores, as the whole run does.

    Returns
    -------
    folder : ScoreFolder
    plan : Manifest
        It is complete if nothing is left to do.

    Raises
    ------
    ScoresError
        If the slices that are there already have another plan.
    UsageError
        If the slice is to overwrite: it would drop what the others wrote.
    """
    if run.overwrite:
        raise UsageError(*OVERWRITES)
    if folder.is_replacing:
        raise ScoresError(f"a run was killed as it replaced the scores in {folder.path}", WITHOUT)
    found = _first(folder, planned)
    try:
        planned = continued(folder, found, planned, run)
    except ScoresError as error:
        raise ScoresError(error.problem, CURE) from error
    if is_same_run(found, planned):
        return folder, found if found.complete else planned
    if not found.complete:
        raise _other_plan(folder, found, planned)
    folder.store.fetch(folder.path)
    if not folder.embeddings.exists():
        raise ScoresError(f"{folder.path} keeps no embeddings to add to", WITHOUT)
    new = folder.replacement
    found = _first(new, planned)
    if not is_begun(new, planned):
        raise _other_plan(new, found, planned)
    for source in (folder, folder.abandoned):
        take_over(source, new, planned, retry=True)
    return new, planned


def _first(folder: ScoreFolder, planned: Manifest) -> Manifest:
    """Return the plan in a folder, which is `planned` if there is none yet."""
    if folder.is_new():
        planned.write(folder.path, first=True)
        folder.store.publish(folder.path / MANIFEST)
    return read_manifest(folder.path)


def _other_plan(folder: ScoreFolder, found: Manifest, planned: Manifest) -> ScoresError:
    differences = settled_differences(found, planned)
    return ScoresError(
        f"{folder.path} holds an unfinished run that differs in {'; '.join(differences[:NAMED])}",
        CURE,
    )
