"""The demo: two pools whose truth is known, scored and filtered by the real stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clipdre.config import TINY_MODEL, EmitConfig, EncodeConfig
from clipdre.core.allocation import top
from clipdre.emitting.emit import write_tar_folder
from clipdre.emitting.subset import Subset
from clipdre.errors import OutputError
from clipdre.formats.files.parquet import write_table
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.formats.tars.shards import expand_shards
from clipdre.pipelines.score import ScoreConfig, score
from clipdre.selecting.rules import Amount, Rule, Step
from clipdre.selecting.select import select
from clipdre.sql.query import ScoreQuery
from clipdre.truth.pool import CLEAN, NOISE, write_pool

CLEAN_SHARE = 0.6
BUDGET = 0.25
WIDENED = 1.8
TRUTHS = {
    "log_ratio": "true_log_ratio",
    "kl_text": "true_kl_text",
    "kl_image": "true_kl_image",
}
RULES = ("similarity", "log_ratio", "log_ratio_text", "kl_text", "kl_image")
RATIO_THEN_KL = "log_ratio, then kl_text"
RANDOM = "at random"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """How one estimated column compares with the truth, over a clean pool."""

    column: str
    estimated: Floats
    true: Floats

    @property
    def pearson(self) -> float:
        """Linear correlation of estimate and truth."""
        return float(np.corrcoef(self.estimated, self.true)[0, 1])


@dataclass(frozen=True)
class DemoReport:
    """What the demo shows.

    Attributes
    ----------
    agreements : list of Agreement
        On the clean pool.
    kept : dict of dict
        Rule to kind to the share of that kind that the rule keeps, at the same budget.
    budget : int
        Samples that every rule keeps.
    purity : dict
        Rule to the share of clean pairs (or copies of clean pairs) among what it keeps.
    information : dict
        Rule to the true log ratio per kept pair in nats, where noise tells nothing (0).
    """

    folder: Path
    clean: Manifest
    pool: Manifest
    agreements: list[Agreement]
    kept: dict[str, dict[str, float]]
    budget: int
    purity: dict[str, float]
    information: dict[str, float]


def run_demo(folder: Path, pairs: int, seed: int, encode: EncodeConfig) -> DemoReport:
    """Write the pools below `folder`, score both, filter the noisy one.

    Raises
    ------
    OutputError
        When `folder` is there and not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is not empty: name a new folder for the demo")
    config = ScoreConfig(encode=encode)
    clean, clean_scores = _pool(folder, "clean", round(CLEAN_SHARE * pairs), seed, {}, config)
    pool, scores = _pool(folder, "pool", pairs, seed + 1, NOISE, config)
    agreements = [
        Agreement(column, _floats(clean_scores, column), _floats(clean_scores, truth))
        for column, truth in TRUTHS.items()
    ]
    budget = round(BUDGET * len(scores))
    chosen = _choices(scores, budget, seed)
    kinds = np.array(scores["kind"].to_pylist())
    told = np.nan_to_num(_floats(scores, TRUTHS["log_ratio"]))
    _filter(folder, pool)
    return DemoReport(
        folder=folder,
        clean=clean,
        pool=pool,
        agreements=agreements,
        kept={rule: _share_kept(kinds, rows) for rule, rows in chosen.items()},
        budget=budget,
        purity={
            rule: float(np.isin(kinds[rows], (CLEAN, "duplicate")).mean())
            for rule, rows in chosen.items()
        },
        information={rule: float(told[rows].mean()) for rule, rows in chosen.items()},
    )


def _pool(
    folder: Path, name: str, n: int, seed: int, noise: dict[str, float], config: ScoreConfig
) -> tuple[Manifest, pa.Table]:
    """One pool: written, scored, and its scores beside what is known of each pair."""
    planted = write_pool(folder / name, n, seed, noise=noise)
    truth = pa.table(
        {"shard": planted.shard, "key": planted.key, "kind": planted.kind, **planted.truths}
    )
    write_table(truth, folder / "truth" / f"{name}.parquet")
    output = folder / f"scores-{name}"
    manifest = score(expand_shards([str(folder / name)]), output, config)
    files = [ScoreFolder(output).scores(shard.name) for shard in manifest.shards]
    scores = pa.concat_tables([pq.read_table(f).replace_schema_metadata(None) for f in files])
    joined = scores.join(truth, ["shard", "key"]).sort_by(
        [("shard", "ascending"), ("key", "ascending")]
    )
    return manifest, joined


def _floats(table: pa.Table, column: str) -> Floats:
    values: Floats = table[column].to_numpy().astype(np.float64)
    return values


def _choices(scores: pa.Table, budget: int, seed: int) -> dict[str, npt.NDArray[np.int64]]:
    """Rows that each rule keeps, `budget` each."""
    hashes = scores["key_hash"].to_numpy()
    chosen = {rule: top(_floats(scores, rule), hashes, budget) for rule in RULES}
    wide = top(_floats(scores, "log_ratio"), hashes, round(WIDENED * budget))
    chosen[RATIO_THEN_KL] = wide[top(_floats(scores, "kl_text")[wide], hashes[wide], budget)]
    rng = np.random.default_rng(seed)
    chosen[RANDOM] = np.sort(rng.choice(len(scores), size=budget, replace=False))
    return chosen


def _share_kept(kinds: npt.NDArray[np.str_], rows: npt.NDArray[np.int64]) -> dict[str, float]:
    return {
        kind: float((kinds[rows] == kind).sum() / (kinds == kind).sum())
        for kind in (CLEAN, *NOISE)
        if (kinds == kind).any()
    }


def _filter(folder: Path, pool: Manifest) -> None:
    """The subset that the demo leaves behind, by the command it tells the reader to type."""
    scores = ScoreFolder(folder / "scores-pool")
    rule = Rule((Step(by="log_ratio", top=Amount(BUDGET)),))
    selection = select(ScoreQuery(scores, pool), rule)
    write_tar_folder(Subset(selection), folder / "subset", EmitConfig(shard_size=1000))


def demo_encode_config(device: str, workers: int) -> EncodeConfig:
    """The embedded model, as the demo runs it."""
    return EncodeConfig(model=TINY_MODEL, device=device, workers=workers)
