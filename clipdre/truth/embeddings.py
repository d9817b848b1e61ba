"""Pairs of unit vectors as a contrastive model makes them: clusters, a modality gap, noise.

The truth has no closed form, but large pools are cheap and the softmax can be made more or less
peaked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddingWorld:
    """A distribution of matching pairs of unit vectors.

    Both vectors of a pair share ``centre + within * e``, and each adds its own ``noise * e'``. The
    modalities are shifted apart along a fixed direction. Centres, e and e' have a power-law
    spectrum over the d dimensions.

    Attributes
    ----------
    d : int
        Dimensions.
    noise : float
        Distance between the vectors of a pair; 0.2 to 0.6 resembles real models.
    clusters : int
        Number of centres.
    within : float
        Spread of a cluster.
    gap : float
        Shift of each modality. A larger gap makes other angles smaller and the softmax less peaked.
    power : float
        Exponent of the spectrum.
    seed : int
        Seed of the centres and directions.
    """

    d: int = 512
    noise: float = 0.4
    clusters: int = 200
    within: float = 0.7
    gap: float = 0.9
    power: float = 0.5
    seed: int = 1

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Draw `n` pairs; return images and texts, unit rows, float32 of shape (n, d) each."""
        law = np.random.default_rng(self.seed)
        centres = self._normal(self.clusters, law)
        away, common = self._direction(law) * self.gap, self._direction(law) * 0.8
        shared = centres[rng.integers(self.clusters, size=n)] + self.within * self._normal(n, rng)
        images, texts = (
            shared + self.noise * self._normal(n, rng) + sign * away + common for sign in (1, -1)
        )
        return _unit(images), _unit(texts)

    def _normal(self, n: int, rng: np.random.Generator) -> Floats:
        spectrum = np.arange(1, self.d + 1, dtype=np.float32) ** -self.power
        spectrum /= np.linalg.norm(spectrum)
        vectors: Floats = rng.standard_normal((n, self.d), dtype=np.float32) * spectrum
        return vectors

    def _direction(self, rng: np.random.Generator) -> Floats:
        return _unit(rng.standard_normal((1, self.d), dtype=np.float32))


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


@dataclass(frozen=True)
class MismatchedPool:
    """A pool in which some captions belong to another image.

    Attributes
    ----------
    images, texts : float32 arrays of shape (N, d), unit rows
    judged : int
        The first rows, of which some are mismatched.
    mismatched : bool array of shape (judged,)
    """

    images: Floats
    texts: Floats
    judged: int
    mismatched: npt.NDArray[np.bool_]


def draw_mismatched(
    world: EmbeddingWorld, n: int, share: float, rng: np.random.Generator
) -> tuple[MismatchedPool, MismatchedPool]:
    """Draw pairs, and give some the caption of the most similar image among as many other pairs.

    Returns
    -------
    owner_kept, owner_absent : MismatchedPool
        The same `n` pairs, together with the pairs that the captions were taken from, or with as
        many others. Pools on the web are like the second: a wrong caption's own image is elsewhere.
    """
    (images, texts), (owners, captions), (fill_images, fill_texts) = (
        world.draw(n, rng) for _ in range(3)
    )
    mismatched = np.zeros(n, np.bool_)
    mismatched[rng.permutation(n)[: round(share * n)]] = True
    nearest = (images[mismatched] @ owners.T).argmax(axis=1)
    texts[mismatched] = captions[nearest]
    taken = np.unique(nearest)
    return (
        MismatchedPool(
            np.concatenate([images, owners[taken]]),
            np.concatenate([texts, captions[taken]]),
            n,
            mismatched,
        ),
        MismatchedPool(
            np.concatenate([images, fill_images[: len(taken)]]),
            np.concatenate([texts, fill_texts[: len(taken)]]),
            n,
            mismatched,
        ),
    )
