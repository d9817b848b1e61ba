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
