"""The manifest of a score folder: what was run, on what, and what came of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from clipdre.errors import ScoresError
from clipdre.formats.files.storage import committed

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ModelRecord:
    """The encoder as loaded."""

    name: str
    pretrained: str | None
    digest: str
    embedding_dim: int
    logit_scale: float
    logit_bias: float
    precision: str
    preprocessing: dict[str, Any]


@dataclass(frozen=True)
class ShardRecord:
    """One source shard, and how its samples fared; the counts are filled when it is encoded."""

    name: str
    url: str
    nbytes: int
    modified: str
    rows: int = 0
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Rows and failures together."""
        return self.rows + sum(self.failures.values())


@dataclass(frozen=True)
class Manifest:
    """Contents of ``manifest.json``.

    Attributes
    ----------
    complete : bool
        Whether all scores are there; a folder without is to be continued, not read.
    settings : dict
        What decides the result: reading options, model, estimation. Batch size and the like do not.
    reference : dict
        How the marginals were computed: method, size, digest.
    """

    clipdre_version: str
    model: ModelRecord
    settings: dict[str, Any]
    shards: tuple[ShardRecord, ...]
    reference: dict[str, Any] = field(default_factory=dict)
    complete: bool = False
    schema_version: int = SCHEMA_VERSION

    @property
    def rows(self) -> int:
        """Pairs with scores."""
        return sum(shard.rows for shard in self.shards)

    @property
    def samples(self) -> int:
        """All samples found, failed ones included."""
        return sum(shard.samples for shard in self.shards)

    def with_shards(self, shards: tuple[ShardRecord, ...]) -> Manifest:
        """The same run with the shards' counts."""
        return replace(self, shards=shards)

    def write(self, folder: Path) -> None:
        """Write atomically to `folder`."""
        with committed(folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Manifest of a score folder, whether complete or not.

    Raises
    ------
    ScoresError
        When there is none, or it is of another schema.
    """
    try:
        raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ScoresError(
            f"{folder} is no score folder (no {MANIFEST}): make one with 'clipdre score'"
        ) from None
    except (OSError, ValueError) as error:
        raise ScoresError(f"cannot read {folder / MANIFEST}: {error}") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise ScoresError(
            f"{folder} has schema version {version}, this clipdre reads {SCHEMA_VERSION}: "
            "score again, or use the clipdre that wrote it"
        )
    try:
        raw["model"] = ModelRecord(**raw["model"])
        raw["shards"] = tuple(ShardRecord(**shard) for shard in raw["shards"])
        return Manifest(**raw)
    except (KeyError, TypeError) as error:
        raise ScoresError(f"{folder / MANIFEST} is damaged ({error}): score again") from error


def read_complete_manifest(folder: Path) -> Manifest:
    """Manifest of a finished score folder; `ScoresError` when it is not finished."""
    manifest = read_manifest(folder)
    if not manifest.complete:
        raise ScoresError(
            f"{folder} is unfinished: run the same 'clipdre score' again, it goes on where it was"
        )
    return manifest
