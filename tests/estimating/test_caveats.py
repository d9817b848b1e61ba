import math

import msgspec
import numpy as np
import pytest

from clipdre.estimating.caveats import ENOUGH_TO_RANK, caveats
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.sql.query import ScoreQuery
from clipdre.truth.pool import write_pool
from tests.helpers import MADE_UP_REFERENCE, tiny_score, write_score_folder

ROWS = 1000
LARGE = 1_000_000
LOG_N = math.log(LARGE - 1)
MISSING, MISMATCH, SATURATED, SMALL = (
    "pairs have no log ratio",
    "are the captions shuffled",
    "of log N, its limit",
    "a larger pool: below",
)
KNOWN = (MISSING, MISMATCH, SATURATED, SMALL)


def found(folder, pairs=LARGE, **columns):
    """Which caveats a made-up folder has, in order, and their text."""
    rng = np.random.default_rng(0)
    values = {
        "log_ratio": rng.normal(5, 3, ROWS),
        "kl_image": rng.normal(4, 1, ROWS),
        "kl_text": rng.normal(4, 1, ROWS),
        **columns,
    }
    manifest = write_score_folder(
        folder, [{"key_hash": np.arange(ROWS, dtype=np.uint64), **values}]
    )
    reference = msgspec.structs.replace(MADE_UP_REFERENCE, pairs=pairs)
    texts = caveats(ScoreQuery(ScoreFolder(folder), manifest), reference)
    return [name for text in texts for name in KNOWN if name in text], texts


def test_plausible_scores_have_none(tmp_path):
    assert found(tmp_path) == ([], [])


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        (np.full(ROWS, -1.0), True),
        (np.zeros(ROWS), True),
        (np.random.default_rng(1).normal(0, 3, ROWS), True),
        (np.where(np.arange(ROWS) < 400, 30.0, -1.0), True),  # the mean alone looks well
        (np.where(np.arange(ROWS) < 600, 1.0, -5.0), True),  # and so does the share
        (np.where(np.arange(ROWS) < 600, 5.0, -5.0), False),
    ],
)
def test_pairs_that_do_not_match(tmp_path, values, warned):
    names, texts = found(tmp_path, log_ratio=values)
    assert names == [MISMATCH] * warned
    if warned:
        finite = values[np.isfinite(values)]
        share = (finite > 0).mean() if len(finite) else 0
        assert f"positive for {share:.0%} of them" in texts[0]
        assert texts[0].endswith("are the captions shuffled, or is this the wrong checkpoint?")


def test_pairs_without_a_log_ratio(tmp_path):
    few = np.where(np.arange(ROWS) < 900, 5.0, np.nan)
    names, (text,) = found(tmp_path / "few", log_ratio=few)
    assert names == [MISSING]
    assert text.startswith("100 of 1,000 pairs have no log ratio: ")
    names, _ = found(tmp_path / "all", log_ratio=np.full(ROWS, np.nan))
    assert names == [MISSING]


@pytest.mark.parametrize(("share", "warned"), [(0.4, False), (0.6, True)])
def test_kls_near_their_limit(tmp_path, share, warned):
    near = np.where(np.arange(ROWS) < share * ROWS, LOG_N - 0.9, LOG_N - 1.1)
    names, texts = found(tmp_path, kl_text=near)
    assert names == [SATURATED] * warned
    assert all(text.startswith(f"kl_text of {share:.0%} of the pairs is") for text in texts)


@pytest.mark.parametrize(
    ("pairs", "warned"), [(2, True), (ENOUGH_TO_RANK - 1, True), (ENOUGH_TO_RANK, False)]
)
def test_pools_too_small_to_rank_by_kl(tmp_path, pairs, warned):
    low = np.full(ROWS, -1.0)
    names, _ = found(tmp_path, pairs, kl_image=low, kl_text=low)
    assert names == [SMALL] * warned


def test_a_pool_with_shuffled_captions_is_noticed(pool, scored, tmp_path):
    write_pool(tmp_path / "pool", 200, seed=3, noise={"mismatched": 1.0})
    manifest = tiny_score(tmp_path / "pool", tmp_path / "s")
    for folder, run, expected in ((tmp_path / "s", manifest, True), (*scored, False)):
        texts = caveats(ScoreQuery(ScoreFolder(folder), run), run.reference)
        assert any(MISMATCH in text for text in texts) is expected
        known = bool(run.pool_reliability)  # which says more about the size of the pool
        assert any(SMALL in text for text in texts) is not known
