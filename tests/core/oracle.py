"""Every quantity from its definition, in float64, with loops if they are clearer."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import connected_components

Floats = npt.NDArray[np.float64]


def scores(
    images: Floats,
    texts: Floats,
    scale: float,
    bias: float = 0.0,
    groups: npt.NDArray[np.int64] | None = None,
    tau: int | None = None,
) -> dict[str, Floats]:
    """Compute all columns of n pairs against the whole pool without those of a pair's own group.

    By default, each pair is a group of its own, and there are no columns that need `tau`.
    """
    logits = scale * images @ texts.T + bias
    groups = np.arange(len(images)) if groups is None else groups
    others = groups[:, None] != groups[None, :]
    counted = others | np.eye(len(images), dtype=bool)
    by_image, by_text = _kept(logits, others), _kept(logits.T, others)
    everyone = [_kept(rows, counted)["log_partition"] for rows in (logits, logits.T)]
    pairs = np.diag(logits)
    ratio_image = pairs - by_image["log_partition"]
    ratio_text = pairs - by_text["log_partition"]
    n = len(images)
    columns = {
        "similarity": (images * texts).sum(axis=1),
        "log_ratio_image": ratio_image,
        "log_ratio_text": ratio_text,
        "log_ratio": (ratio_image + ratio_text) / 2,
        "negcliploss": pairs - (everyone[0] + everyone[1]) / 2,
        "kl_contribution": (ratio_image + ratio_text) / 2 / len(images),
    }
    for modality, found, own, other in (
        ("image", by_image, images, texts),
        ("text", by_text, texts, images),
    ):
        columns |= {f"{name}_{modality}": values for name, values in found.items()}
        centred = own - own.mean(axis=0)
        covariance = np.cov(other.T, bias=True)
        columns[f"dw_{modality}"] = np.array([scale**2 * row @ covariance @ row for row in centred])
        columns[f"dc_{modality}"] = np.array([scale**2 * row @ row for row in centred])
        columns |= {f"{name}_{modality}_se": np.zeros(n) for name in ("log_ratio", "kl", "klr")}
    columns |= dict.fromkeys(("log_ratio_se", "negcliploss_se"), np.zeros(n))
    return columns if tau is None else columns | _with_tau(logits, others, tau)


def _with_tau(logits: Floats, others: npt.NDArray[np.bool_], tau: int) -> dict[str, Floats]:
    columns = {"log_ratio_tau": np.diag(logits) + np.log(tau)}
    for modality, rows, kept in (("image", logits, others), ("text", logits.T, others.T)):
        found = []
        for row, own in zip(rows, kept, strict=True):
            s, ratios = row[own], tau * np.exp(row[own])
            weights = ratios / ratios.sum()
            published = np.log(tau) + (ratios * s).mean()
            found.append(
                [
                    (weights * np.log(ratios)).sum(),
                    published + (ratios.mean() - 1) * np.log(tau),
                    -np.log(ratios).mean(),
                ]
            )
        names = (f"kl_{modality}_tau", f"kl_{modality}_tau_all", f"klr_{modality}_tau")
        columns |= dict(zip(names, np.array(found).T, strict=True))
    return columns


def _kept(logits: Floats, kept: npt.NDArray[np.bool_]) -> dict[str, Floats]:
    return of_queries([row[own] for row, own in zip(logits, kept, strict=True)])


def alike_groups(images: Floats, texts: Floats, threshold: float = 0.95) -> npt.NDArray[np.int64]:
    """Group pairs that are alike on both sides, and those connected by others that are."""
    alike = (images @ images.T > threshold) & (texts @ texts.T > threshold)
    groups: npt.NDArray[np.int64] = connected_components(alike)[1].astype(np.int64)
    return groups


def of_queries(logits: Iterable[Floats]) -> dict[str, Floats]:
    """Compute the estimates of several queries; each row holds the logits of one."""
    rows = [of_query(row) for row in logits]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def of_query(s: Floats) -> dict[str, float]:
    """Compute the estimates of one query from its logits `s` with M references."""
    top = s.max()
    log_partition = top + np.log(np.mean(np.exp(s - top)))
    weights = np.exp(s - top) / np.exp(s - top).sum()
    return {
        "log_partition": log_partition,
        "kl": (weights * s).sum() - log_partition,
        "klr": log_partition - s.mean(),
        "ess": 1 / (weights**2).sum(),
    }


def unit_rows(rng: np.random.Generator, n: int, d: int) -> Floats:
    """Draw random unit vectors."""
    vectors = rng.standard_normal((n, d))
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def clustered_pool(
    seed: int, n: int, d: int, noise: float, clusters: int = 20, gap: float = 0.5
) -> tuple[Floats, Floats]:
    """Draw matching pairs around shared centres, with a modality gap as in CLIP."""
    rng = np.random.default_rng(seed)
    centres = unit_rows(rng, clusters, d)[rng.integers(clusters, size=n)]
    away = gap * unit_rows(rng, 1, d)
    modalities = []
    for sign in (1, -1):
        vectors = centres + noise * unit_rows(rng, n, d) + sign * away
        modalities.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return modalities[0], modalities[1]
