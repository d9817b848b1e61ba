"""Each recipe keeps what a naive implementation of its published rule keeps, on one table."""

import numpy as np
import pytest

from clipdre.formats.folders.folder import ScoreFolder
from clipdre.selecting.recipes import read_recipe, recipe_names
from clipdre.selecting.select import select
from clipdre.sql.query import ScoreQuery
from tests.formats.folders.measured import write_measured
from tests.helpers import write_score_folder

ROWS = 400
RNG = np.random.default_rng(3)
COLUMNS = (
    "similarity",
    "log_ratio",
    "negcliploss",
    *(f"{n}_{m}" for n in ("kl", "klr", "dc", "dw") for m in ("image", "text")),
)
TABLE = {name: RNG.standard_normal(ROWS).astype(np.float32) for name in COLUMNS}
TABLE["similarity"] = (0.3 + 0.05 * TABLE["similarity"]).astype(np.float32)
RANKS = RNG.integers(1, 3, ROWS)
WEIGHTS = RNG.random(ROWS).astype(np.float32)
LANGUAGES = RNG.choice(["en", "de"], ROWS)


@pytest.fixture(scope="module")
def query(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    columns = {"key_hash": RNG.permutation(ROWS).astype(np.uint64), **TABLE}
    manifest = write_score_folder(folder, [columns])
    for name, values in {
        "duplicate_rank": RANKS,
        "prompt_weight": WEIGHTS,
        "language": LANGUAGES,
    }.items():
        write_measured(folder, manifest, name.replace("_", "-"), {name: values})
    return ScoreQuery(ScoreFolder(folder), manifest)


def top(values, count, among=None):
    rows = np.arange(ROWS) if among is None else np.asarray(among)
    return rows[np.argsort(-values[rows], kind="stable")][:count]


def uniform(values, count, bins):
    """Take pairs from bins of equal width, as many from each as it has and the others allow."""
    place = (values.astype(float) - values.min()) / (float(values.max()) - values.min()) * bins
    bin_of = np.minimum(place.astype(int), bins - 1)
    sizes = np.bincount(bin_of, minlength=bins)
    level = next(n for n in range(ROWS) if np.minimum(sizes, n + 1).sum() > count)
    return np.minimum(sizes, level), bin_of


QUARTER, THIRD = ROWS // 4, round(0.3 * ROWS)
DISTINCT = np.flatnonzero(RANKS == 1)
BUDGET = int(len(DISTINCT) / 4 + 0.5)
ENGLISH = np.flatnonzero(LANGUAGES == "en")
ALIGNED = np.flatnonzero(TABLE["similarity"] >= 0.28)
PUBLISHED = {
    "clipscore": top(TABLE["similarity"], THIRD),
    "clipscore-and-kl": np.flatnonzero(
        (TABLE["similarity"] >= np.median(TABLE["similarity"]))
        & (TABLE["kl_text"] >= np.median(TABLE["kl_text"]))
    ),
    "clipscore-then-kl": top(TABLE["kl_text"], QUARTER, top(TABLE["similarity"], 180)),
    "dc": top(TABLE["dc_text"], QUARTER),
    "dw": top(TABLE["dw_text"], QUARTER),
    "kl": top(TABLE["kl_text"], QUARTER),
    "klr": top(TABLE["klr_text"], QUARTER),
    "laion2b": np.intersect1d(ENGLISH, ALIGNED),
    "log-ratio": top(TABLE["log_ratio"], THIRD),
    "log-ratio-then-kl": top(
        TABLE["kl_text"], BUDGET, top(TABLE["log_ratio"], int(1.8 * BUDGET + 0.5), DISTINCT)
    ),
    "log-ratio-weighted": top(WEIGHTS, QUARTER, top(TABLE["log_ratio"], 180)),
    "negcliploss": top(TABLE["negcliploss"], THIRD),
    "similarity-threshold": ALIGNED,
}
FOR_ANY_MODEL = {"laion2b": {"threshold": 0.28}, "similarity-threshold": {"threshold": 0.28}}


def kept(query, name, **settings):
    rule = read_recipe(name).rule(query, FOR_ANY_MODEL.get(name, {}) | settings)
    return select(query, rule).places[1]


def test_every_recipe_is_compared():
    assert {*PUBLISHED, "uniform-kl"} == set(recipe_names())


@pytest.mark.parametrize("name", PUBLISHED)
def test_keeps_what_the_published_rule_keeps(query, name):
    assert sorted(kept(query, name).tolist()) == sorted(PUBLISHED[name].tolist())


@pytest.mark.parametrize("name", ["kl", "klr", "dc", "dw"])
def test_the_other_side_is_an_option(query, name):
    expected = top(TABLE[f"{name}_image"], QUARTER)
    assert sorted(kept(query, name, side="image").tolist()) == sorted(expected.tolist())


def test_uniform_over_bins_gives_from_each_what_it_can(query):
    rows = kept(query, "uniform-kl")
    assert len(rows) == QUARTER
    least, bin_of = uniform(TABLE["kl_text"], QUARTER, 1000)
    found = np.bincount(bin_of[rows], minlength=1000)
    assert (found >= least).all()
    assert (found <= least + 1).all()
