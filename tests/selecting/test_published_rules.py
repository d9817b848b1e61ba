"""Each recipe keeps what a naive implementation of its published rule keeps, on one table."""

import hashlib

import numpy as np
import pytest

from clipdre.formats.folders.folder import ScoreFolder
from clipdre.selecting.recipes import read_recipe, recipe_names
from clipdre.selecting.rules import Amount
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
CHANCES, RARITIES, MASKED, CLOSENESS = RNG.random((4, ROWS)).astype(np.float32)
LIKENESS, DISTANCES = RNG.random((2, ROWS)).astype(np.float32)
HITS = RNG.random(ROWS) < 0.5
QUOTAS, PLACES = RNG.integers(1, 9, (2, ROWS)).astype(np.int32)
LATE = RNG.permutation(ROWS) + 1
LOG_WEIGHTS = (5000 + 3 * RNG.standard_normal(ROWS)).astype(np.float32)
HASHES = RNG.permutation(ROWS).astype(np.uint64)
CAPTIONS = RNG.choice(["a red hat", "a hat", "a b c", "  two words ", "an old red hat"], ROWS)
WIDTHS, HEIGHTS = RNG.choice([199, 200, 300, 600, 601], (2, ROWS))
MEASURED = {
    "duplicate_rank": RANKS,
    "prompt_weight": WEIGHTS,
    "language": LANGUAGES,
    "metaclip_probability": CHANCES,
    "wfpp": RARITIES,
    "dsir_log_weight": LOG_WEIGHTS,
    "similarity_masked": MASKED,
    "normsim": CLOSENESS,
    "normsim_dynamic_rank": LATE,
    "duplicate_similarity": LIKENESS,
    "lemon": DISTANCES,
    "cluster_in_target": HITS,
    "dbp_quota": QUOTAS,
    "dbp_rank": PLACES,
}


@pytest.fixture(scope="module")
def query(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    sampled = {"key_hash": HASHES, "caption": CAPTIONS, "width": WIDTHS, "height": HEIGHTS}
    manifest = write_score_folder(folder, [sampled | TABLE])
    for name, values in MEASURED.items():
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


def chances(use):
    """Return a number in (0, 1) for each row, from its key hash and the seed 0."""
    digest = hashlib.blake2b(f"{use} 0".encode(), digest_size=8).digest()
    factor = int.from_bytes(digest, "little") | 1
    found = []
    for key_hash in HASHES.tolist():
        product = key_hash * factor % 2**64
        bits = (product ^ product >> 32) * 0x9E3779B97F4A7C15 % 2**64
        found.append(((bits >> 11) + 0.5) / 2**53)
    return np.array(found)


def is_basic(language, caption, width, height):
    return (
        language == "en"
        and len(caption.split()) > 2
        and len(caption) > 5
        and min(width, height) >= 200
        and max(width, height) / min(width, height) <= 3.0
    )


def union(columns, count):
    """Widen the best of each column, one place at a time, until together they are enough."""
    orders = [np.argsort(-values, kind="stable") for values in columns]
    for n in range(count + 1):
        found = set(np.concatenate([order[:n] for order in orders]).tolist())
        if len(found) >= count:
            return found, {int(order[n - 1]) for order in orders}
    raise AssertionError


def soft_cap(scores, draws, per_round):
    """Draw rows in rounds, by Gumbel noise; each draw lowers a row's score by 0.15."""
    times = np.zeros(ROWS, int)
    for n in range(0, draws, per_round):
        noise = -np.log(-np.log(chances(f"round {n // per_round}")))
        values = scores.astype(float) - 0.15 * times + noise
        times[np.argsort(-values)[: min(per_round, draws - n)]] += 1
    return times


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
    "datacomp-basic": [
        n
        for n, row in enumerate(zip(LANGUAGES, CAPTIONS, WIDTHS, HEIGHTS, strict=True))
        if is_basic(*row)
    ],
    "dc": top(TABLE["dc_text"], QUARTER),
    "density-pruning": np.flatnonzero(PLACES <= QUOTAS),
    "digits-masked": top(MASKED, round(0.4 * ROWS)),
    "dsir": top(LOG_WEIGHTS.astype(float) - np.log(-np.log(chances("seed"))), THIRD),
    "dw": top(TABLE["dw_text"], QUARTER),
    "kl": top(TABLE["kl_text"], QUARTER),
    "image-based-and-clipscore": [
        n
        for n in top(TABLE["similarity"], THIRD).tolist()
        if HITS[n] and is_basic(LANGUAGES[n], CAPTIONS[n], 200, 200)
    ],
    "klr": top(TABLE["klr_text"], QUARTER),
    "laion2b": np.intersect1d(ENGLISH, ALIGNED),
    "lemon": np.argsort(DISTANCES, kind="stable")[:THIRD],
    "log-ratio": top(TABLE["log_ratio"], THIRD),
    "log-ratio-copies-last": top(
        np.minimum(TABLE["log_ratio"], TABLE["log_ratio"].astype(float) / RANKS), THIRD
    ),
    "log-ratio-then-kl": top(
        TABLE["kl_text"], BUDGET, top(TABLE["log_ratio"], int(1.8 * BUDGET + 0.5), DISTINCT)
    ),
    "log-ratio-weighted": top(WEIGHTS, QUARTER, top(TABLE["log_ratio"], 180)),
    "metaclip": np.flatnonzero(chances("draw") < CHANCES),
    "negcliploss": top(TABLE["negcliploss"], THIRD),
    "negcliploss-normsim": top(CLOSENESS, ROWS // 5, top(TABLE["negcliploss"], THIRD)),
    "negcliploss-normsim-d": np.flatnonzero(LATE <= ROWS // 5),
    "semdedup": np.flatnonzero(LIKENESS.astype(np.float64) <= 0.95),
    "similarity-threshold": ALIGNED,
    "soft-cap": np.flatnonzero(soft_cap(TABLE["log_ratio"], THIRD, 100_000)),
    "wfpp": top(RARITIES, ROWS // 2),
}
FOR_ANY_MODEL = {"laion2b": {"threshold": 0.28}, "similarity-threshold": {"threshold": 0.28}}


def kept(query, name, **settings):
    rule = read_recipe(name).rule(query, FOR_ANY_MODEL.get(name, {}) | settings)
    return select(query, rule).places[1]


def test_every_recipe_is_compared():
    assert {*PUBLISHED, "uniform-kl", "union"} == set(recipe_names())


@pytest.mark.parametrize("name", PUBLISHED)
def test_keeps_what_the_published_rule_keeps(query, name):
    assert sorted(kept(query, name).tolist()) == sorted(PUBLISHED[name])


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


def test_a_soft_cap_counts_draws(query):
    settings = {"per_round": 50, "score": "kl_text", "budget": "90%"}
    selection = select(query, read_recipe("soft-cap").rule(query, settings))
    times = soft_cap(TABLE["kl_text"], 360, 50)
    assert times.max() > 2
    assert selection.places.row.tolist() == np.flatnonzero(times).tolist()
    assert selection.table(["times"])["times"].to_pylist() == times[times > 0].tolist()


@pytest.mark.parametrize("other", ["kl_text", "dc_image"])
def test_a_union_keeps_what_one_score_ranks_high(query, other):
    for budget in (1, 60, 61, 250):
        rows = set(kept_of(query, budget, other))
        every, last = union([TABLE["log_ratio"], TABLE[other]], budget)
        assert len(rows) == budget
        assert every - last <= rows <= every


def kept_of(query, budget, other):
    rule = read_recipe("union").rule(query, {"b": other}, Amount(budget))
    return select(query, rule).places.row.tolist()


def test_a_union_needs_only_one_of_the_scores(tmp_path):
    a = np.array([5.0, np.nan, 4.0, 1.0, 0.0])
    b = np.array([np.nan, 9.0, np.nan, np.nan, np.nan])
    columns = {"key_hash": HASHES[:5], "log_ratio": a, "kl_text": b}
    query = ScoreQuery(ScoreFolder(tmp_path), write_score_folder(tmp_path, [columns]))
    assert kept_of(query, 3, "kl_text") == [0, 1, 2]
