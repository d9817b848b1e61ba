"""The truth world: scenes of independent attributes, captions that mention some of them.

An image is a scene whose attributes are drawn independently from priors ``p_k``. Its caption
mentions attribute ``k`` with probability ``q_k``, independently of the value. A caption is
consistent with a scene if it contradicts none of its attributes. If the caption mentions the
attributes in ``S``, then

    p(i|t) / p(i) = 1[i consistent with t] / prod_{k in S} p_k(value)

and everything else follows in closed form, in nats:

    log p(i,t) / p(i)p(t) = KL(p(I|t) || p(I)) = sum_{k in S} -log p_k(value)      (a matching pair)
    KL(p(T|i) || p(T))    = sum_k q_k * -log p_k(value)

Wording other than the mentions (the lead phrase) is independent of the image and cancels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ZIPF_EXPONENT = 0.8


def _zipf(n: int) -> tuple[float, ...]:
    weights = np.arange(1, n + 1, dtype=np.float64) ** -ZIPF_EXPONENT
    return tuple(float(w) for w in weights / weights.sum())


@dataclass(frozen=True)
class Attribute:
    """One independent attribute of a scene.

    Attributes
    ----------
    name : str
    values : tuple of str
    prior : tuple of float
        Probability of each value.
    mention : float
        Probability that a caption mentions the attribute.
    """

    name: str
    values: tuple[str, ...]
    prior: tuple[float, ...]
    mention: float


SHAPES = ("circle", "square", "triangle", "cross", "ring", "star")
COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "cyan", "brown")
SIZES = ("small", "large")
POSITIONS = ("top left", "top right", "bottom left", "bottom right")
BACKGROUNDS = ("white", "black", "grey", "striped")

ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute("shape", SHAPES, _zipf(6), 0.8),
    Attribute("colour", COLOURS, _zipf(8), 0.6),
    Attribute("size", SIZES, (0.7, 0.3), 0.3),
    Attribute("position", POSITIONS, _zipf(4), 0.3),
    Attribute("background", BACKGROUNDS, _zipf(4), 0.25),
)
LEADS = ("", "a picture of ", "an image showing ")

Values = npt.NDArray[np.int64]
Mentions = npt.NDArray[np.bool_]
Nats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Matching image-text pairs of the world.

    Attributes
    ----------
    values : int64 array of shape (n, 5)
        Index of each attribute's value in the scene, in the order of `ATTRIBUTES`.
    mentioned : bool array of shape (n, 5)
        Whether the caption mentions the attribute.
    captions : list of n str
    """

    values: Values
    mentioned: Mentions
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)


def sample_pairs(n: int, rng: np.random.Generator) -> Pairs:
    """Draw `n` independent matching pairs."""
    values = np.stack([rng.choice(len(a.prior), size=n, p=a.prior) for a in ATTRIBUTES], axis=1)
    mentioned = rng.random((n, len(ATTRIBUTES))) < np.array([a.mention for a in ATTRIBUTES])
    leads = rng.integers(len(LEADS), size=n)
    captions = [
        LEADS[lead] + describe(v, m) for lead, v, m in zip(leads, values, mentioned, strict=True)
    ]
    return Pairs(values.astype(np.int64), mentioned, captions)


def describe(values: Values, mentioned: Mentions) -> str:
    """Return a caption that says only the `mentioned` attributes; both of shape (5,)."""
    shape, colour, size, position, background = (
        attribute.values[value] if is_mentioned else ""
        for attribute, value, is_mentioned in zip(ATTRIBUTES, values, mentioned, strict=True)
    )
    words = [size, colour, shape or "thing"]
    if position:
        words.append(f"in the {position}")
    if background:
        words.append(f"on {background}")
    return " ".join(word for word in words if word)


def information(values: Values) -> Nats:
    """Compute ``-log p_k(value)`` of each attribute, shape (n, 5), in nats."""
    columns = [-np.log(np.array(a.prior))[values[:, k]] for k, a in enumerate(ATTRIBUTES)]
    return np.stack(columns, axis=1)


def true_log_ratio(pairs: Pairs) -> Nats:
    """Compute ``log p(i,t) / p(i)p(t)`` of each matching pair, shape (n,), in nats."""
    ratio: Nats = (information(pairs.values) * pairs.mentioned).sum(axis=1)
    return ratio


def true_kl_text(pairs: Pairs) -> Nats:
    """Compute ``KL(p(I|t) || p(I))`` of each caption, shape (n,), in nats.

    All scenes consistent with a caption have the same ratio, so this equals `true_log_ratio`.
    """
    return true_log_ratio(pairs)


def true_kl_image(pairs: Pairs) -> Nats:
    """Compute ``KL(p(T|i) || p(T))`` of each image, shape (n,), in nats."""
    mention = np.array([a.mention for a in ATTRIBUTES])
    expected: Nats = (information(pairs.values) * mention).sum(axis=1)
    return expected


def true_mutual_information() -> float:
    """Compute ``KL(p(i,t) || p(i)p(t))``, the mean of each of the three truths, in nats."""
    entropies = [-sum(p * np.log(p) for p in a.prior) * a.mention for a in ATTRIBUTES]
    return float(sum(entropies))
