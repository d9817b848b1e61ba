"""Small scorers to try the seam with."""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clipdre.core.columns import Column
from clipdre.core.modality import Modality
from clipdre.scorers.base import setting


@dataclass(frozen=True)
class Toy:
    """What all toys share: one column with the name of the scorer."""

    title: ClassVar = "A toy"
    source: ClassVar = "these tests"
    version: ClassVar = 1
    example: ClassVar = {}

    def columns(self):
        return (Column(self.name.replace("-", "_"), "", "a toy"),)

    def fit(self, pool):
        return {}

    def column(self, values):
        return {self.name.replace("-", "_"): np.asarray(values)}


@dataclass(frozen=True)
class Constant(Toy):
    name: ClassVar = "constant"
    value: float = setting("Value of every row.", default=1.0)

    def score(self, rows, learned):
        return self.column(np.full(len(rows), self.value))


@dataclass(frozen=True)
class Failing(Constant):
    """Fails on the last shard."""

    value: float = setting("Value of every row.", default=2.0)

    def score(self, rows, learned):
        if rows.start >= 200:
            raise RuntimeError("no more")
        return super().score(rows, learned)


@dataclass(frozen=True)
class Pixels(Toy):
    """A number from the bytes of the image, so that samples must be read from their shards."""

    name: ClassVar = "pixels"

    def score(self, rows, learned):
        return self.column([number(sample.image) for sample in rows.samples()])


def number(data):
    return int.from_bytes(hashlib.sha256(data).digest()[:4], "little")


@dataclass(frozen=True)
class Reencoded(Toy):
    """Similarity of the pair, from its bytes: the encoder and the samples together."""

    name: ClassVar = "reencoded"

    def score(self, rows, learned):
        images = rows.vectors(Modality.IMAGE)
        texts = rows.encoder.encode_texts([rows.encoder.tokenize(c) for c in rows.captions])
        return self.column((images * texts.cpu()).sum(dim=1).numpy())


@dataclass(frozen=True)
class Centred(Toy):
    """Distance from the mean vector of the pool: two passes, the first of them merged."""

    name: ClassVar = "centred"

    def fit(self, pool):
        sums = pool.reduce("sums", self.summed, added)
        sample = pool.sample(10)
        return {
            "mean": sums["sum"] / sums["count"],
            "sampled": np.float64(len(sample)),
            "largest_sampled_hash": sample.hashes.max().astype(np.float64),
        }

    def summed(self, rows):
        vectors = rows.vectors(Modality.IMAGE).double().numpy()
        return {"sum": vectors.sum(axis=0), "count": np.array(len(rows))}

    def score(self, rows, learned):
        vectors = rows.vectors(Modality.IMAGE).double().numpy()
        return self.column(np.linalg.norm(vectors - learned["mean"], axis=1))


def added(first, second):
    return {name: value + second[name] for name, value in first.items()}


@dataclass(frozen=True)
class Asking(Toy):
    """Asks for everything that `fit` can ask for, and counts how often it is fitted."""

    name: ClassVar = "asking"
    fits: ClassVar = []
    target: str = setting("Target.")

    def fit(self, pool):
        self.fits.append(self.target)
        tiles = sum(len(tile) for tile in pool.target(self.target, Modality.TEXT))
        vectors = pool.encoder.encode_texts([pool.encoder.tokenize("a red circle")])
        return {
            "tiles": np.array(tiles),
            "first": vectors[0, 0].cpu().numpy(),
            "ratio": pool.column("log_ratio").mean(),
            "sampled": np.array(len(pool.sample(3))),
        }

    def score(self, rows, learned):
        return self.column(np.full(len(rows), float(learned["tiles"])))


@dataclass(frozen=True)
class Misshapen(Toy):
    name: ClassVar = "misshapen"
    extra: bool = setting("Return one column too many.", default=False)

    def score(self, rows, learned):
        if self.extra:
            return {**self.column(np.zeros(len(rows))), "other": np.zeros(len(rows))}
        return self.column(np.zeros(len(rows) + 1))


@dataclass(frozen=True)
class Impostor(Toy):
    """Declares a column that `clipdre score` writes."""

    name: ClassVar = "impostor"

    def columns(self):
        return (Column("log_ratio", "", "not the real one"),)

    def score(self, rows, learned):
        return {"log_ratio": np.zeros(len(rows))}


@dataclass(frozen=True)
class Copied(Toy):
    """Another column again, and its smallest value in a sample."""

    name: ClassVar = "copied"
    of: str = setting("The other column.", default="log_ratio")

    def fit(self, pool):
        found = pool.has_column(self.of)
        least = pool.sample(50).column(self.of).min() if found else 0.0
        return {"found": np.float64(found), "least": np.float64(least)}

    def score(self, rows, learned):
        return self.column(rows.column(self.of))


@dataclass(frozen=True)
class Worded(Toy):
    """The first word of the caption, and gaps where it is red."""

    name: ClassVar = "worded"

    def columns(self):
        return (Column("word", "", "the first word"), Column("gappy", "", "NaN where it is red"))

    def score(self, rows, learned):
        words = np.array([caption.split(" ")[0] for caption in rows.captions])
        return {"word": words, "gappy": np.where(words == "red", np.nan, 1.0)}
