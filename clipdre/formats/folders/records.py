"""Records of a score folder: strict, so that a damaged or foreign file is refused, not guessed."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from clipdre.core.columns import Column
from clipdre.core.modality import Modality
from clipdre.formats.tars.spans import place_of
from clipdre.words import changed

T = TypeVar("T", bound="Record")
# Sizes and numbers of rows; the limit keeps sums of them within 64 bits.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records: JSON in, JSON out, every field checked."""

    def encoded(self) -> bytes:
        """Return the record as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def decoded(cls: type[T], data: bytes) -> T:
        """Return the record that `encoded` gave; ValueError with the first wrong field."""
        return msgspec.json.decode(data, type=cls)


# Largest difference of two cosines of one model: 0.02 nats at a logit scale of 100. Machines differ
# by 1e-5 at most.
SAME_COSINE = 2e-4


def same_fingerprint(before: tuple[float, ...], now: tuple[float, ...]) -> bool:
    """Return whether two fingerprints are of one model; an unknown one, (), may be of any."""
    if not before or not now:
        return True
    return len(before) == len(now) and all(
        abs(first - second) <= SAME_COSINE for first, second in zip(before, now, strict=True)
    )


# `omit_defaults`: embeddings are stamped with this record, and those of folders that do not record
# the last three fields keep their stamps.
class ModelRecord(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The encoder as loaded.

    Attributes
    ----------
    digest : str
        Of the weights.
    activation : str
        The one that the pretrained tag asked for; empty if it is that of the model's definition.
    fingerprint : tuple of float
        Cosines of a few fixed images and captions, see `clipdre.models.fingerprint`; empty if the
        embeddings were made elsewhere, or by a clipdre that did not record it.
    inner_product : bool
        Whether logits are of inner products of vectors of any length; of cosines otherwise.
    """

    name: str
    pretrained: str | None
    digest: str
    embedding_dim: Count
    logit_scale: float
    logit_bias: float
    precision: str
    preprocessing: dict[str, Any]
    activation: str = ""
    fingerprint: tuple[float, ...] = ()
    inner_product: bool = False

    @property
    def identity(self) -> str:
        """Weights and fingerprint, for stamps of what was made with this model."""
        return " ".join([self.digest, *map(str, self.fingerprint)])

    def redefined(self, now: ModelRecord) -> str | None:
        """Return how the model of `now` differs beyond its weights, for messages; None if same."""
        for name in ("preprocessing", "activation"):
            before, after = getattr(self, name), getattr(now, name)
            if before != after:
                return f"{name} ({changed(before or 'as defined', after or 'as defined')})"
        if not same_fingerprint(self.fingerprint, now.fingerprint):
            return (
                "definition (the same weights gave other vectors for the same images or captions)"
            )
        return None


class ShardRecord(Record, frozen=True, kw_only=True):
    """One source shard and its counts, which are filled in once it is encoded.

    Attributes
    ----------
    warnings : tuple of str
        Why the shard may lack samples that it once had (no end of the archive, or fewer samples
        than are stated beside it), or how rows of embeddings without a key are named.
    after_reference : bool
        Whether the shard came after the reference, which was kept: its pairs are scored against
        those of the other shards, and are not in the reference themselves.
    sample : str
        Of its content, see `clipdre.formats.files.content`; empty if it was not taken.
    """

    name: str
    url: str
    nbytes: Count
    modified: str
    rows: Count = 0
    failures: dict[str, Count] = {}
    warnings: tuple[str, ...] = ()
    after_reference: bool = False
    sample: str = ""

    @property
    def place(self) -> str:
        """Path or URL as tables show it, see `clipdre.formats.tars.spans.place_of`."""
        return place_of(self.url)

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

    cells: Count
    margin: Annotated[float, msgspec.Meta(ge=0, le=1000)]
    mass: float
    share: float


# Of the files of a reference.
VERSION = 2


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
    fingerprint : tuple of float
        Of the model, as in `ModelRecord`.
    version : int
        Of the files; 1 has no groups.
    alike : float
        Pairs whose cosines exceed it on both sides leave each other out.
    own : str
        ``left-out``, or ``counted``: nothing is left out.
    inner_product : bool
        As in `ModelRecord`.
    """

    method: str
    pairs: Annotated[int, msgspec.Meta(ge=1, le=2**48)]
    bulk: Count
    folds: Count
    neighbors: Count
    model_digest: str
    logit_scale: float
    logit_bias: float
    embedding_dim: Count
    digest: str
    near: dict[Modality, NearRecord] = {}
    fingerprint: tuple[float, ...] = ()
    version: int = 1
    alike: float = 1.0
    own: str = "left-out"
    inner_product: bool = False

    def __post_init__(self) -> None:
        if self.method not in ("exact", "stratified", "sample"):
            raise ValueError(f"unknown method {self.method!r}")
        if self.bulk and (not self.folds or self.bulk % self.folds):
            raise ValueError(f"a bulk of {self.bulk} has no {self.folds} folds")
        if self.folds % 2:
            raise ValueError(f"{self.folds} folds are not of two halves")


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

    @classmethod
    def of(cls, column: Column) -> ColumnRecord:
        """Return the record of a column."""
        return cls(name=column.name, unit=column.unit, meaning=column.meaning, better=column.better)


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
    rows: Count


def builtins(value: object) -> Any:
    """Return settings or a record as plain JSON values, as they are read back."""
    return msgspec.json.decode(msgspec.json.encode(value))
