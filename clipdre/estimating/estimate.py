"""Embeddings and a reference to scores: every pair against the pool's marginals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.config import Own
from clipdre.core.density_ratio import similarity
from clipdre.core.modality import Modality
from clipdre.core.pairs import Pairs, Side
from clipdre.core.scores import half_columns, score_columns
from clipdre.errors import ScoresError
from clipdre.estimating.groups import NOBODY
from clipdre.estimating.marginal import AS_SCORED, Marginal, Reading
from clipdre.estimating.strangers import places_alike
from clipdre.formats.folders.embeddings import StoredPool
from clipdre.formats.folders.records import VERSION, ModelRecord, ReferenceRecord, same_fingerprint
from clipdre.formats.folders.reference import Hashes, ReferenceFolder

CPU = torch.device("cpu")
# Pairs that are estimated together. Each block costs a pass over the pool; where cells are gathered
# or a device has to be fed, larger blocks pay, and take more memory.
QUERY_ROWS, MANY_QUERY_ROWS = 8192, 65_536
# Bytes of the mask of cells that are near each of them; there are more cells in a larger pool.
MASK_BYTES = 1 << 28

Columns = dict[str, npt.NDArray[np.floating]]


def usable_reference(path: Path, model: ModelRecord) -> ReferenceRecord:
    """Return the record of a reference that serves scores of `model`.

    Raises
    ------
    ScoresError
        When there is no reference, or it was made with another model: other weights, or the same
        weights read in another way.
    """
    record = ReferenceFolder(path).record()
    if record is None:
        raise ScoresError(f"{path} holds no reference", "score that pool to its end first")
    if record.version != VERSION:
        raise ScoresError(
            f"{path} is from an earlier version of clipdre",
            "score that pool again with `overwrite`",
        )
    cure = "score with the same model, or without `reference`"
    if record.inner_product != model.inner_product:
        raise ScoresError(
            f"{path} is of {_kind(record.inner_product)}, and these scores are of "
            f"{_kind(model.inner_product)}",
            cure,
        )
    if record.model_digest != model.digest:
        raise ScoresError(
            f"{path} was made with other weights than {model.name} as loaded now", cure
        )
    if not same_fingerprint(record.fingerprint, model.fingerprint):
        raise ScoresError(
            f"{path} was made with the weights of {model.name} as loaded now, but with another "
            "definition of the model (activation, preprocessing or tokenizer)",
            cure,
        )
    return record


def _kind(inner_product: bool) -> str:
    return "inner products" if inner_product else "cosines"


@dataclass(frozen=True)
class Estimates:
    """What is computed of n pairs.

    Attributes
    ----------
    columns : dict of arrays of shape (n,)
        All score columns.
    halves : dict of float64 arrays of shape (n, 2)
        Columns that depend on the reference, against each half of the pool.
    """

    columns: Columns
    halves: Columns

    def __getitem__(self, rows: slice) -> Estimates:
        """Return the estimates of some of the pairs."""
        return Estimates(
            {name: values[rows] for name, values in self.columns.items()},
            {name: values[rows] for name, values in self.halves.items()},
        )


class Estimator:
    """Scores of pairs under one model, against one reference, on a CPU or CUDA device.

    Parameters
    ----------
    pool : StoredPool, optional
        Needed to evaluate every counterpart of a `sample` reference.
    tau : int, optional
        Negatives per positive in the model's training: adds `log_ratio_tau` and the like.
    """

    def __init__(
        self,
        folder: ReferenceFolder,
        model: ModelRecord,
        device: torch.device = CPU,
        pool: StoredPool | None = None,
        tau: int | None = None,
    ) -> None:
        self._tau = tau
        self.record = usable_reference(folder.path, model)
        self._model = model
        self._own_counted = self.record.own == Own.COUNTED
        # Sums are kept in float64, which accelerators other than CUDA's do not have.
        self._device = device if device.type == "cuda" else CPU
        self.marginals = {
            modality: Marginal(folder, self.record, modality, self._device, pool)
            for modality in Modality
        }

    @property
    def query_rows(self) -> int:
        """Pairs to pass to `estimates` together."""
        return query_rows(self.record, self._device)

    def _groups(self, vectors: Mapping[Modality, Tensor], hashes: Hashes) -> Tensor:
        """Return the group of each pair in the reference, `NOBODY` if it leaves nobody out.

        Pairs are found by key hash, so a reference from another run leaves out a pair's own
        counterpart too. Pairs that it does not hold join the group of those they are alike to.
        """
        if self._own_counted:
            return torch.full((len(hashes),), NOBODY, device=self._device)
        marginal = self.marginals[Modality.IMAGE]
        places = marginal.places(hashes)
        strangers = places == -1
        if strangers.any():
            queries = {modality: rows[strangers] for modality, rows in vectors.items()}
            places[strangers] = places_alike(self.marginals, queries, self.record.alike)
        groups = torch.tensor(np.asarray(marginal.groups[places.clamp(min=0).numpy()]))
        return torch.where(places == -1, NOBODY, groups).to(self._device)

    def estimates(self, images: Tensor, texts: Tensor, hashes: Hashes, pool_size: int) -> Estimates:
        """Compute all score columns of some pairs, and those against each half of the pool.

        Parameters
        ----------
        images, texts : float32 Tensors of shape (n, d)
        hashes : uint64 array of shape (n,)
            Key hashes of the pairs.
        pool_size : int
            Pairs of the pool that is scored.
        """
        pairs = self.pairs(images, texts, hashes, pool_size)
        return Estimates(
            {name: column.cpu().numpy() for name, column in score_columns(pairs).items()},
            {
                name: torch.stack(halves, dim=1).cpu().numpy()
                for name, halves in half_columns(pairs).items()
            },
        )

    def pairs(
        self,
        images: Tensor,
        texts: Tensor,
        hashes: Hashes,
        pool_size: int,
        readings: Mapping[Modality, Reading] | None = None,
    ) -> Pairs:
        """Return what the columns of some pairs are read from; see `estimates`.

        Parameters
        ----------
        readings : mapping of Modality to Reading, optional
            How to read the counterparts of that modality; as scored by default.
        """
        vectors = {
            Modality.IMAGE: images.to(self._device),
            Modality.TEXT: texts.to(self._device),
        }
        groups = self._groups(vectors, hashes)
        scale = self._model.logit_scale
        logits = scale * similarity(*vectors.values()).double() + self._model.logit_bias
        sides = {}
        for modality, queries in vectors.items():
            other = modality.other
            reading = (readings or {}).get(other, AS_SCORED)
            partition, mean_logit = self.marginals[other].partition(
                queries, groups, logits, reading
            )
            sides[modality] = Side(
                queries,
                logits,
                partition,
                mean_logit,
                self.marginals[modality].moments,
                self.marginals[other].moments,
                scale,
                self._own_counted,
            )
        return Pairs(logits, sides, pool_size, self._tau)


def query_rows(record: ReferenceRecord, device: torch.device) -> int:
    """Return how many pairs are estimated together on a device."""
    many = record.method == "stratified" or device.type == "cuda"
    cells = max((near.cells for near in record.near.values()), default=1)
    return min(MANY_QUERY_ROWS if many else QUERY_ROWS, max(1, MASK_BYTES // cells))


def estimate_rows(
    pool: StoredPool, hashes: Hashes, estimator: Estimator, start: int, stop: int
) -> Estimates:
    """Estimate the pool's rows `start` to `stop`."""
    blocks = []
    for low in range(start, max(stop, start + 1), estimator.query_rows):
        high = min(low + estimator.query_rows, stop)
        images = pool.read(Modality.IMAGE, low, high)
        texts = pool.read(Modality.TEXT, low, high)
        blocks.append(estimator.estimates(images, texts, hashes[low:high], len(pool)))
    return Estimates(
        *(
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            for parts in ([b.columns for b in blocks], [b.halves for b in blocks])
        )
    )
