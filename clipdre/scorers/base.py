"""What a scorer is, and what it is given.

A scorer adds columns to a finished score folder. It is a frozen dataclass: its fields are its
settings, the options of ``clipdre measure SCORES NAME``, and part of the stamp of what it writes.
It sees only what this module describes, so it does not depend on files, devices or the command
line. One class per file of this package, or of an installed package that names it in the entry
point group ``clipdre.scorers``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from clipdre.core.columns import Column
from clipdre.core.modality import Modality

if TYPE_CHECKING:
    from PIL import Image

# Columns by name, or what was learned by name.
Arrays = dict[str, npt.NDArray[Any]]
T = TypeVar("T")


class Sample(Protocol):
    """A sample as it lies in its shard."""

    @property
    def key(self) -> str:
        """Key of the sample."""
        ...

    @property
    def image(self) -> bytes:
        """Encoded image."""
        ...

    @property
    def caption(self) -> str:
        """Caption."""
        ...


class Encoder(Protocol):
    """The model that made the scores; see `clipdre.models.encoder.Encoder`."""

    def preprocess(self, image: Image.Image) -> Tensor:
        """Turn an RGB image into the input of `encode_images`."""
        ...

    def tokenize(self, caption: str) -> Tensor:
        """Turn a caption into the input of `encode_texts`."""
        ...

    def encode_images(self, pixels: Sequence[Tensor]) -> Tensor:
        """Encode n preprocessed images to unit vectors, float32 of shape (n, d)."""
        ...

    def encode_texts(self, tokens: Sequence[Tensor]) -> Tensor:
        """Encode n tokenized captions to unit vectors, float32 of shape (n, d)."""
        ...


class Rows(Protocol):
    """Consecutive rows of the pool. Everything is read only when it is asked for.

    How many rows come together varies from run to run, so a row's result must not depend on the
    other rows it comes with.
    """

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    @property
    def start(self) -> int:
        """Index of the first row in the pool."""
        ...

    @property
    def captions(self) -> list[str]:
        """Captions; an empty string if there is none."""
        ...

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """Key hashes, uint64 of shape (n,)."""
        ...

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a column of the folder, of shape (n,); ask `Pool.has_column` in `fit` first."""
        ...

    def vectors(self, modality: Modality) -> Tensor:
        """Return unit vectors, float32 of shape (n, d)."""
        ...

    def samples(self) -> Iterator[Sample]:
        """Yield the samples, read from their shards."""
        ...

    def images(self, each: Callable[[Image.Image], T]) -> Iterator[T | str]:
        """Yield what `each` makes of every image, or the reason why one cannot be decoded.

        Images are RGB and decoded as for the model, in threads, which also call `each`. A scorer
        gives a row without an image NaN, and the reason in a column of its own.
        """
        ...

    @property
    def encoder(self) -> Encoder:
        """The model that made the scores, on this worker's device."""
        ...


class Members(Protocol):
    """Rows of the pool that are not consecutive, in pool order."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """Key hashes, uint64 of shape (n,)."""
        ...

    def vectors(self, modality: Modality, places: npt.NDArray[np.int64] | None = None) -> Tensor:
        """Return unit vectors of all members, or of those at `places`; float32 of shape (n, d)."""
        ...


class Cluster(Members, Protocol):
    """The rows of one cluster."""

    @property
    def number(self) -> int:
        """Number of the cluster."""
        ...

    @property
    def around(self) -> Members:
        """Rows of the clusters near it, its own included."""
        ...

    @property
    def own(self) -> npt.NDArray[np.int64]:
        """Places of the cluster's rows among those around it, int64 of shape (n,)."""
        ...


class Pool(Protocol):
    """All scored pairs, as `fit` sees them. Passes run on the engine and resume part by part."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    @property
    def encoder(self) -> Encoder:
        """The model that made the scores."""
        ...

    @property
    def logit_scale(self) -> float:
        """Scale with which cosines become logits; `ScoresError` if inner products do."""
        ...

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a column that `clipdre score` wrote, or `key_hash`, of shape (len(pool),)."""
        ...

    def sample(self, n: int) -> Rows:
        """Return the n rows of smallest key hash, a uniform sample; the same on any machine."""
        ...

    def collect(self, step: str, part: Callable[[Rows], Arrays]) -> Arrays:
        """Compute arrays with an entry per row, and return them for the whole pool in its order.

        They stay in memory, so there should be few bytes per row. See `reduce`.
        """
        ...

    def centroids(
        self, modalities: Sequence[Modality], count: int, seed: int
    ) -> npt.NDArray[np.float32]:
        """Cluster a sample by spherical k-means; return unit vectors of shape (count, d).

        The vectors of several modalities are concatenated: see `concatenated`.
        """
        ...

    def alike(self, modality: Modality, threshold: float) -> npt.NDArray[np.int64]:
        """Group rows whose vectors have cosines above a threshold.

        Returns
        -------
        int64 array of shape (len(pool),)
            The row that leads each row's group, itself if it is alone.
        """
        ...

    def by_cluster(
        self,
        step: str,
        clusters: npt.NDArray[np.integer],
        part: Callable[[Cluster], Arrays],
        near: npt.NDArray[np.integer] | None = None,
    ) -> Arrays:
        """Compute arrays with an entry per row, cluster by cluster.

        Memory is bounded by the largest cluster and what is near it, a few hundred MB otherwise.

        Parameters
        ----------
        step : str
            See `reduce`.
        clusters : integer array of shape (len(pool),)
            Cluster of each row, from 0.
        part : callable
            Takes a cluster of n rows, returns arrays of n entries; picklable.
        near : integer array of shape (number of clusters, p), optional
            For each cluster those whose rows are `Cluster.around` it.

        Returns
        -------
        Arrays
            Of len(pool) entries, in the order of the pool.
        """
        ...

    def reduce(
        self,
        step: str,
        part: Callable[[Rows], Arrays],
        merge: Callable[[Arrays, Arrays], Arrays],
    ) -> Arrays:
        """Reduce the whole pool: `part` of some rows, merged in pool order.

        Parameters
        ----------
        step : str
            Name of this pass; together with the settings and `part` it identifies its results.
        part, merge : callable
            Picklable, such as functions of a module or methods of the scorer.
        """
        ...

    def has_column(self, name: str) -> bool:
        """Whether the folder has a column, scored or measured, that `Rows.column` can read."""
        ...

    def texts(self, place: str) -> Iterator[str]:
        """Yield texts from elsewhere, without empty ones.

        Parameters
        ----------
        place : str
            A text file with one per line, a .json file with a list of them, or a score folder,
            whose captions are meant.
        """
        ...

    def target(self, place: str, modality: Modality) -> Iterator[Tensor]:
        """Yield unit vectors of another data set, tile by tile: float32 of shape (n, d).

        Parameters
        ----------
        place : str
            A score folder, a folder of embeddings, or a .npy file of shape (n, d).
        """
        ...


@runtime_checkable
class Scorer(Protocol):
    """Adds columns to a score folder.

    Attributes
    ----------
    name, title, source : str
        Name on the command line, what it measures in one line, and where it was published.
    cost : str
        What it has to do, in a few words; optional.
    version : int
        Raised whenever the same settings give other numbers.
    example : mapping
        Settings to try it with; the string ``SCORES`` stands for a score folder.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    version: ClassVar[int]
    example: ClassVar[Mapping[str, Any]]

    def columns(self) -> tuple[Column, ...]:
        """Return the columns that `score` computes, in order."""
        ...

    def fit(self, pool: Pool) -> Arrays:
        """Learn from the pool; scalars become the figures of the record. Empty if nothing is."""
        ...

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Compute each column of some rows, arrays of shape (n,)."""
        ...


def setting(help: str, *, default: Any = MISSING) -> Any:
    """Declare a setting: a field of the scorer's dataclass, with the help text of its option."""
    return field(default=default, metadata={"help": help})
