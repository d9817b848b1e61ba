"""The manifest of a score folder: what was run, on what, and what came of it."""

from __future__ import annotations

import json
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec

from clipdre.config import EstimateConfig, ReadConfig
from clipdre.errors import ScoresError
from clipdre.formats.files.remote import is_remote
from clipdre.formats.files.storage import absolute, committed, is_utf8, regular, unescaped_path
from clipdre.formats.folders.layout import MANIFEST
from clipdre.formats.folders.records import (
    ModelRecord,
    Record,
    ReferenceRecord,
    ShardRecord,
    builtins,
    upgraded,
)
from clipdre.formats.folders.working_copy import refresh
from clipdre.formats.tars.places import is_harmless
from clipdre.words import count, one_line

SCHEMA_VERSION = 4
PROBABILITIES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Without it, `score` would read this manifest again.
CURE = "score again with `overwrite`"


class _Versioned(msgspec.Struct):
    """What tells a manifest of clipdre from that of another tool, and is quickly read."""

    schema_version: Any


# Reading options that manifests and stamps lack unless they are used: older ones do not have them.
LATER = ("keep", "more_captions")


def read_settings(read: ReadConfig) -> dict[str, Any]:
    """Return reading options as manifests and stamps hold them."""
    defaults, given = builtins(ReadConfig()), builtins(read)
    return {
        name: value for name, value in given.items() if name not in LATER or value != defaults[name]
    }


class Manifest(Record, frozen=True, kw_only=True):
    """Contents of ``manifest.json``.

    Attributes
    ----------
    complete : bool
        Whether all scores are there; a folder that is not complete can be resumed, not read.
    settings : dict of dict
        What decides the result: reading options (``read``) and estimation (``estimate``). Batch
        size and the like do not.
    reference : ReferenceRecord or None
        How the marginals were computed; None until they are.
    keeps_reference : bool
        Whether the reference is that of the pool before shards were added or dropped.
    pool_reliability : dict
        Column to its correlation between two halves of the pool; empty if a clipdre that did not
        measure it made the scores. Columns that do not vary have none.
    quantiles : dict
        Main column to its quantiles over the pool at `PROBABILITIES`; none for columns without a
        finite value, and if an older clipdre made the scores.
    """

    clipdre_version: str
    model: ModelRecord
    settings: dict[str, dict[str, Any]]
    shards: tuple[ShardRecord, ...]
    reference: ReferenceRecord | None = None
    keeps_reference: bool = False
    pool_reliability: dict[str, float] = msgspec.field(default_factory=dict)
    quantiles: dict[str, tuple[float, ...]] = msgspec.field(default_factory=dict)
    complete: bool = False
    schema_version: int = SCHEMA_VERSION

    def __repr__(self) -> str:
        state = "complete" if self.complete else "unfinished"
        shards = count(len(self.shards), "shard")
        return f"Manifest({count(self.rows, 'pair')} of {shards}, {self.model.name}, {state})"

    @property
    def reading(self) -> ReadConfig:
        """Settings that the shards were read with."""
        return msgspec.convert(self.settings["read"], ReadConfig)

    @property
    def estimating(self) -> EstimateConfig:
        """Settings that the marginals are computed with."""
        return msgspec.convert(self.settings.get("estimate", {}), EstimateConfig)

    @property
    def after_reference(self) -> int:
        """Pairs that came after the reference, which was kept: they are not in it."""
        return sum(shard.rows for shard in self.shards if shard.after_reference)

    @property
    def rows(self) -> int:
        """Pairs with scores."""
        return sum(shard.rows for shard in self.shards)

    @property
    def starts(self) -> list[int]:
        """Place in the pool of each shard's first row, and the number of rows."""
        return [0, *accumulate(shard.rows for shard in self.shards)]

    @property
    def failures(self) -> dict[str, int]:
        """Reasons to how many samples failed for them, the most frequent first."""
        found: Counter[str] = Counter()
        for shard in self.shards:
            found.update(shard.failures)
        return dict(found.most_common())

    @property
    def samples(self) -> int:
        """All samples found, failed ones included."""
        return sum(shard.samples for shard in self.shards)

    @property
    def has_tars(self) -> bool:
        """Whether the scores were made from shards, not from embeddings alone."""
        return "embeddings" not in self.settings["read"]

    def write(self, folder: Path, *, first: bool = False) -> None:
        """Write atomically to `folder`; shards inside it are written by their path from there.

        With `first`, a manifest that is there already stays.
        """
        here = Path(absolute(str(folder)))
        shards = (
            msgspec.structs.replace(shard, url=str(Path(shard.url).relative_to(here)))
            if not is_remote(shard.url) and Path(shard.url).is_relative_to(here)
            else shard
            for shard in self.shards
        )
        with committed(folder / MANIFEST, first=first) as temporary:
            temporary.write_bytes(msgspec.structs.replace(self, shards=tuple(shards)).encoded())


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a score folder, complete or not.

    Raises
    ------
    ScoresError
        When there is none, it is damaged, or it has an unknown schema.
    """
    path = folder / MANIFEST
    refresh(folder)
    if not is_utf8(folder):
        raise ScoresError(f"the path of {folder} is not UTF-8", "rename it")
    if folder.is_file():
        raise ScoresError(
            f"{folder} is a file, not a score folder", "make one with 'clipdre score'"
        )
    try:
        raw = json.loads(regular(path).read_bytes())
    except FileNotFoundError:
        raise ScoresError(
            f"{folder} is not a score folder (no {MANIFEST})", "make one with 'clipdre score'"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        problem = f"cannot read {path} ({one_line(error)})"
        raise ScoresError(problem, "score into another folder") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version not in range(1, SCHEMA_VERSION + 1):
        raise ScoresError(
            f"{folder} has schema version {version}, this clipdre reads {SCHEMA_VERSION}",
            f"{CURE}, or use the clipdre that wrote it",
        )
    try:
        raw = _upgraded(raw) if version == 1 else raw
        found = msgspec.convert({**raw, "schema_version": SCHEMA_VERSION}, type=Manifest)
        return _checked(_found_inside(found, Path(absolute(str(folder)))))
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ScoresError(f"{path} is damaged ({error})", CURE) from error


def _found_inside(manifest: Manifest, folder: Path) -> Manifest:
    """Return a manifest with the absolute paths of shards that are named by their path from it.

    Those that are not there are from an older clipdre, whose paths were as they were given.
    """
    if all(is_remote(s.url) or s.url.startswith("/") for s in manifest.shards):
        return manifest  # as a rule, and nothing is looked up
    shards = (
        msgspec.structs.replace(shard, url=str(folder / shard.url))
        if not is_remote(shard.url) and unescaped_path(str(folder / shard.url)).is_file()
        else shard
        for shard in manifest.shards
    )
    return msgspec.structs.replace(manifest, shards=tuple(shards))


def _checked(manifest: Manifest) -> Manifest:
    """Return a manifest that has reading options, and shards whose names can be those of files."""
    if "read" not in manifest.settings:
        raise ValueError("no settings `read`")
    assert manifest.reading
    assert manifest.estimating
    names = [shard.name for shard in manifest.shards]
    if not names or len(set(names)) < len(names) or not all(map(is_harmless, names)):
        raise ValueError("the shards do not have a name each")
    return manifest


def is_own_manifest(folder: Path) -> bool:
    """Whether the manifest of a folder is clipdre's, of any version, even if it is damaged."""
    refresh(folder)
    try:
        msgspec.json.decode(regular(folder / MANIFEST).read_bytes(), type=_Versioned)
    except (OSError, RecursionError, msgspec.DecodeError):
        return False
    return True


def read_complete_manifest(folder: Path) -> Manifest:
    """Read the manifest of a finished score folder; `ScoresError` when it is not finished."""
    manifest = read_manifest(folder)
    if not manifest.complete:
        raise ScoresError(
            f"{folder} is unfinished", "run the same 'clipdre score' again, it resumes"
        )
    if manifest.reference is None:
        raise ScoresError(f"{folder / MANIFEST} is damaged (no reference)", CURE)
    return manifest


def _upgraded(raw: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 wrote an empty reference for none, and called the image modality ``img``."""
    reference = upgraded(raw["reference"]) if raw["reference"] else None
    return {**raw, "reference": reference}
