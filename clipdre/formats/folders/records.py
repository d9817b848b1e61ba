"""Records of a score folder: strict, so that a damaged or foreign file is refused, not guessed."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from clipdre.core.modality import Modality

T = TypeVar("T", bound="Record")


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records: JSON in, JSON out, every field checked."""

    def encoded(self) -> bytes:
        """Return the record as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def decoded(cls: type[T], data: bytes) -> T:
        """Return the record that `encoded` gave; ValueError with the first wrong field."""
        return msgspec.json.decode(data, type=cls)


class ModelRecord(Record, frozen=True, kw_only=True):
    """The encoder as loaded."""

    name: str
    pretrained: str | None
    digest: str
    embedding_dim: int
    logit_scale: float
    logit_bias: float
    precision: str
    preprocessing: dict[str, Any]


class ShardRecord(Record, frozen=True, kw_only=True):
    """One source shard and its counts, which are filled in once it is encoded."""

    name: str
    url: str
    nbytes: int
    modified: str
    rows: int = 0
    failures: dict[str, int] = {}

    @property
    def samples(self) -> int:
        """Rows and failures together."""
        return self.rows + sum(self.failures.values())


class NearRecord(Record, frozen=True, kw_only=True):
    """How the near counterparts of one modality were chosen.

    Attributes
    ----------
    cells : int
    margin : float
        Nats; see `clipdre.core.cells`.
    mass : float
        Mean share of a query's mass that is near, measured on held-out queries.
    share : float
        Mean share of the pool that is near, measured on the same queries.
    """

    cells: int
    margin: float
    mass: float
    share: float


class ReferenceRecord(Record, frozen=True, kw_only=True):
    """Contents of ``reference.json``.

    Attributes
    ----------
    method : str
        ``exact``, ``stratified`` or ``sample``.
    pairs : int
        Pairs of the pool that the reference stands for.
    bulk, folds, neighbors : int
        Size of the uniform bulk, its folds, and the near counterparts asked for on average; 0 if
        unused.
    near : dict
        Modality to `NearRecord`; empty unless stratified.
    """

    method: str
    pairs: int
    bulk: int
    folds: int
    neighbors: int
    model_digest: str
    logit_scale: float
    logit_bias: float
    embedding_dim: int
    digest: str
    near: dict[Modality, NearRecord] = {}


def upgraded(reference: dict[str, Any]) -> dict[str, Any]:
    """Return a raw reference record; schema 1 called the image modality ``img``."""
    near = {"image" if m == "img" else m: record for m, record in reference["near"].items()}
    return {**reference, "near": near}


class ColumnRecord(Record, frozen=True, kw_only=True):
    """A measured column: see `clipdre.core.columns.Column`."""

    name: str
    unit: str
    meaning: str
    better: Literal["high", "low", "neither"]


class MeasureRecord(Record, frozen=True, kw_only=True):
    """Contents of ``columns/NAME/record.json``: one scorer's finished columns.

    Attributes
    ----------
    scorer, version : str, int
        Which scorer, in which version.
    settings : dict
        Its settings.
    stamp : str
        Digest of all that decides a shard's columns but the shard itself.
    columns : tuple of ColumnRecord
    figures : dict
        Numbers that describe the whole pool, such as an effective sample size.
    rows : int
    """

    scorer: str
    version: int
    settings: dict[str, Any]
    stamp: str
    columns: tuple[ColumnRecord, ...]
    figures: dict[str, float]
    rows: int


def builtins(value: object) -> Any:
    """Return settings or a record as plain JSON values, as they are read back."""
    return msgspec.json.decode(msgspec.json.encode(value))
