"""Pairs of unit vectors as a contrastive model makes them: clusters, a modality gap, noise.

No truth in closed form, but large pools are cheap, and how peaked the softmax is can be chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddingWorld:
    """A law of matched pairs of unit vectors.

    A pair shares ``centre + within * e``, each side adds ``noise * e'``, and the sides lie ``gap``
    apart in a fixed direction; all of them with a power-law spectrum over the d dimensions.

    Attributes
    ----------
    noise : float
        How far the sides of a pair differ; 0.2 to 0.6 is like real models.
    within : float
        Spread of a cluster.
    gap : float
        The larger, the smaller all other differences of angle: a less peaked softmax.
    """

    d: int = 512
    noise: float = 0.4
    clusters: int = 200
    within: float = 0.7
    gap: float = 0.9
    power: float = 0.5
    seed: int = 1

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Draw `n` pairs: images and texts, float32 of shape (n, d) each, unit rows."""
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
