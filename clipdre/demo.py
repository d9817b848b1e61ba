"""The demo: score and filter two pools whose true density ratios are known."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipdre.config import TINY_MODEL, EmitConfig, EncodeConfig, LookConfig, RunConfig
from clipdre.emitting.emit import write_tar_folder
from clipdre.emitting.place import UNFINISHED
from clipdre.emitting.subset import Subset
from clipdre.errors import OutputError, UnreliableEstimateWarning
from clipdre.formats.files.outputs import output_folder, read_json, write_json
from clipdre.formats.files.parquet import write_table
from clipdre.formats.folders.columns import GROUP
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.formats.tars.places import expand_shards
from clipdre.looking.look import collect
from clipdre.looking.page import render
from clipdre.pipelines.score import ScoreConfig, score
from clipdre.selecting.recipes import read_recipe
from clipdre.selecting.rules import Amount, Rule, Step
from clipdre.selecting.select import Selection, select
from clipdre.sql.query import ScoreQuery
from clipdre.truth.pool import CLEAN, NOISE, write_pool

NEW_FOLDER = "choose a new folder for the demo"
CLEAN_SHARE = 0.6
BUDGET = Amount(0.25)
TRUTHS = {
    "log_ratio": "true_log_ratio",
    "kl_text": "true_kl_text",
    "kl_image": "true_kl_image",
}
COLUMNS = ("similarity", "log_ratio", "log_ratio_text", "kl_text", "kl_image")
RECOMMENDED = "log-ratio-copies-last"
RATIO_THEN_KL = "ratio, then kl_text"
RANDOM = "at random"
# Kinds of pairs that match.
GOOD = (CLEAN, "duplicate")
# Rules that the page compares.
COMPARED = (RECOMMENDED, "similarity", "kl_text")
PAGE = "page.html"

Floats = npt.NDArray[np.float64]
Kinds = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Agreement:
    """Estimates of one column and the true values, over a clean pool."""

    column: str
    estimated: Floats
    true: Floats

    @property
    def pearson(self) -> float:
        """Pearson correlation of the estimated and true values."""
        return float(np.corrcoef(self.estimated, self.true)[0, 1])


@dataclass(frozen=True)
class DemoReport:
    """Results of the demo.

    Attributes
    ----------
    folder : Path
    clean, pool : Manifest
        Manifests of the clean pool's scores and the noisy pool's.
    agreements : list of Agreement
        Estimates and truth on the clean pool.
    kept : dict of dict
        Share of each kind of pair that each rule keeps, by rule and kind.
    budget : int
        Number of pairs that every rule keeps.
    purity : dict
        Share of clean pairs and their copies among the kept pairs, by rule.
    information : dict
        Mean true log ratio of the kept pairs in nats, by rule; noise counts as 0.
    distinct : dict
        Share of clean pairs and copies that differ from each other among the kept pairs, by rule.
    page : Path
        What `clipdre look` shows of the noisy pool.
    """

    folder: Path
    clean: Manifest
    pool: Manifest
    agreements: list[Agreement]
    kept: dict[str, dict[str, float]]
    budget: int
    purity: dict[str, float]
    information: dict[str, float]
    distinct: dict[str, float]
    page: Path


def run_demo(folder: Path, pairs: int, seed: int, encode: EncodeConfig) -> DemoReport:
    """Write two pools below `folder`, score both and filter the noisy one.

    A demo that was stopped starts over in its folder.

    Raises
    ------
    OutputError
        If `folder` exists and holds anything but the begun part of this demo.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file", NEW_FOLDER)
    output, plan = output_folder(folder), {"demo": {"pairs": pairs, "seed": seed}}
    with output.held():
        if output.names() and read_json(output, UNFINISHED) != plan:
            raise OutputError(f"{folder} is not empty", NEW_FOLDER)
        output.remove_leftovers()
        write_json(output, UNFINISHED, plan)
        report = _run(folder, pairs, seed, encode)
        output.remove(UNFINISHED)
        return report


def _run(folder: Path, pairs: int, seed: int, encode: EncodeConfig) -> DemoReport:
    config = ScoreConfig(encode=encode)
    clean_plan = _Plan("clean", round(CLEAN_SHARE * pairs), seed, {})
    clean = _scored_pool(folder, clean_plan, config)
    pool = _scored_pool(folder, _Plan("pool", pairs, seed + 1, NOISE), config)
    everything = _columns(select(pool, Rule()), ["kind"])["kind"].to_numpy()
    with warnings.catch_warnings():  # the rules that lose are there to be seen
        warnings.simplefilter("ignore", UnreliableEstimateWarning)
        kept = {name: select(pool, rule) for name, rule in _rules(pool, seed).items()}
    kinds, true, distinct = {}, {}, {}
    for name, selection in kept.items():
        columns = _columns(selection, ["kind", TRUTHS["log_ratio"], GROUP.name])
        kinds[name] = columns["kind"].to_numpy()
        true[name] = np.nan_to_num(_floats(columns, TRUTHS["log_ratio"]))
        good = np.isin(kinds[name], GOOD)
        distinct[name] = len(np.unique(columns[GROUP.name].to_numpy()[good])) / len(good)
    _write_subset(folder, pool.manifest)
    page = folder / PAGE
    compared = {name: kept[name] for name in COMPARED}
    render(collect(pool, compared, LookConfig())).save(page, overwrite=True)
    return DemoReport(
        folder=folder,
        clean=clean.manifest,
        pool=pool.manifest,
        agreements=_agreements(clean),
        kept={name: _shares_kept(of_rule, everything) for name, of_rule in kinds.items()},
        budget=BUDGET.of(pool.manifest.rows),
        purity={name: float(np.isin(of_rule, GOOD).mean()) for name, of_rule in kinds.items()},
        information={name: float(values.mean()) for name, values in true.items()},
        distinct=distinct,
        page=page,
    )


class _Plan(NamedTuple):
    name: str
    pairs: int
    seed: int
    noise: dict[str, float]


def _scored_pool(folder: Path, plan: _Plan, config: ScoreConfig) -> ScoreQuery:
    """Write and score one pool; return its scores joined with the truth about each pair."""
    name = plan.name
    planted = write_pool(folder / name, plan.pairs, plan.seed, noise=plan.noise)
    truth = pa.table(
        {"shard": planted.shard, "key": planted.key, "kind": planted.kind, **planted.truths}
    )
    truth_file = folder / "truth" / f"{name}.parquet"
    write_table(truth, truth_file)
    scores = ScoreFolder(folder / f"scores-{name}")
    manifest = score(
        expand_shards([str(folder / name)]), scores.path, config, RunConfig(overwrite=True)
    )
    return ScoreQuery(scores, manifest, joined=[truth_file])


def _rules(pool: ScoreQuery, seed: int) -> dict[str, Rule]:
    """Return the rules to compare, all with the same budget."""
    count = Amount(BUDGET.of(pool.manifest.rows))  # a share would be one of the distinct pairs
    with_kl = read_recipe("log-ratio-then-kl").rule(pool, budget=count)
    return {
        **{column: Rule((Step(by=column, top=BUDGET),)) for column in COLUMNS},
        # Its first step keeps distinct pairs only, of which a small world has too few.
        RATIO_THEN_KL: replace(with_kl, steps=with_kl.steps[1:]),
        RECOMMENDED: read_recipe(RECOMMENDED).rule(pool, budget=BUDGET),
        RANDOM: Rule((Step(sample=BUDGET),), seed=seed),
    }


def _agreements(clean: ScoreQuery) -> list[Agreement]:
    columns = _columns(select(clean, Rule()), [*TRUTHS, *TRUTHS.values()])
    return [
        Agreement(name, _floats(columns, name), _floats(columns, truth))
        for name, truth in TRUTHS.items()
    ]


def _columns(selection: Selection, names: Sequence[str]) -> pa.Table:
    """Return columns of the selected rows, in pool order."""
    return pa.Table.from_batches(list(selection.rows.batches(names)))


def _floats(table: pa.Table, column: str) -> Floats:
    values: Floats = table[column].to_numpy().astype(np.float64)
    return values


def _shares_kept(kept: Kinds, pool: Kinds) -> dict[str, float]:
    """Return the share of each kind of the pool's pairs that is kept."""
    return {
        kind: float((kept == kind).sum() / (pool == kind).sum())
        for kind in (CLEAN, *NOISE)
        if (pool == kind).any()
    }


def _write_subset(folder: Path, pool: Manifest) -> None:
    """Write the top quarter by log_ratio as shards."""
    rule = Rule((Step(by="log_ratio", top=BUDGET),))
    selection = select(ScoreQuery(ScoreFolder(folder / "scores-pool"), pool), rule)
    write_tar_folder(
        Subset(selection), folder / "subset", EmitConfig(shard_size=1000), overwrite=True
    )


def demo_encode_config(device: str, workers: int) -> EncodeConfig:
    """Return the settings with which the demo runs the embedded model."""
    return EncodeConfig(model=TINY_MODEL, device=device, workers=workers)
