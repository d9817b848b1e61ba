import duckdb
import numpy as np
import pytest

from clipdre.errors import SelectionError, UsageError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.selecting.rules import Amount, Rule, Step
from clipdre.selecting.select import select
from clipdre.selecting.soft_cap import SoftCap, _uniform, count_draws
from clipdre.sql.query import ScoreQuery
from clipdre.sql.row_set import seeded_uniform
from tests.helpers import write_score_folder

RNG = np.random.default_rng(4)


def hashes_of(n):
    return np.sort(RNG.integers(0, 2**64, n, dtype=np.uint64))


def test_the_noise_is_that_of_other_draws():
    hashes = hashes_of(100)
    sql = f"SELECT {seeded_uniform(9, 'round 3')} FROM (SELECT unnest($1::UBIGINT[]) AS key_hash)"
    found = [value for (value,) in duckdb.execute(sql, [hashes.tolist()]).fetchall()]
    assert _uniform(hashes, 9, 3).tolist() == found


def test_a_round_draws_from_the_softmax():
    hashes = hashes_of(40_000)
    # Groups of four rows with weights of 1, 2, 3 and 4.
    weights = np.log(np.tile([1.0, 2.0, 3.0, 4.0], 10_000))
    times = count_draws(hashes, weights, 2000, SoftCap(0.0, 20, 0))
    shares = times.reshape(-1, 4).sum(axis=0) / 2000
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.3, 0.4], atol=0.04)


def test_the_penalty_spreads_draws():
    hashes, weights = hashes_of(50), np.linspace(0, 5, 50)
    free, capped, hard = (
        count_draws(hashes, weights, 1000, SoftCap(penalty, 10, 0)) for penalty in (0, 0.15, 1e9)
    )
    assert free.sum() == capped.sum() == hard.sum() == 1000
    assert free.max() > capped.max() > hard.max()
    assert hard.tolist() == [20] * 50
    assert free.max() <= 100  # once a round


def test_more_per_round_than_rows():
    assert count_draws(hashes_of(3), np.zeros(3), 7, SoftCap(0.1, 100, 0)).sum() == 7
    assert len(count_draws(hashes_of(0), np.zeros(0), 7, SoftCap(0.1, 100, 0))) == 0
    with pytest.raises(SelectionError, match="takes 1,000,000 rounds: draw less, or more per rou"):
        count_draws(hashes_of(3), np.zeros(3), 10**6, SoftCap(0.1, 1, 0))


def folder_of(path, tables):
    return ScoreQuery(ScoreFolder(path), write_score_folder(path, tables))


class TestSelection:
    STEP = Step(by_log="w", sample=Amount(150), penalty=0.2, per_round=40)

    @pytest.fixture
    def columns(self):
        weights = RNG.normal(size=100)
        weights[:5] = [np.nan, -np.inf, 0, 0, 0]
        keys = [f"{n:03d}" for n in range(100)]
        return {"key": np.array(keys), "key_hash": hashes_of(100), "w": weights}

    def drawn(self, query, *steps, seed=0):
        selection = select(query, Rule((self.STEP, *steps), seed=seed))
        table = selection.table(["key", "times"])
        return dict(zip(table["key"].to_pylist(), table["times"].to_pylist(), strict=True))

    def test_does_not_depend_on_the_order_of_rows(self, columns, tmp_path):
        one = self.drawn(folder_of(tmp_path / "a", [columns]))
        order = RNG.permutation(100)
        parts = [{n: v[o] for n, v in columns.items()} for o in (order[:30], order[30:])]
        assert self.drawn(folder_of(tmp_path / "b", parts)) == one
        assert sum(one.values()) == 150
        assert not {"000", "001"} & set(one)
        assert self.drawn(folder_of(tmp_path / "b", parts), seed=1) != one

    def test_later_steps_keep_the_times(self, columns, tmp_path):
        query = folder_of(tmp_path, [columns])
        every = self.drawn(query)
        for step in (
            Step(where="rank(w) > 50"),
            Step(by="w", top=Amount(20)),
            Step(balance="key < '050'", cap=10, by="w"),
        ):
            found = self.drawn(query, step)
            assert 0 < len(found) < len(every)
            assert found.items() <= every.items()
        assert self.drawn(query, Step(where="false")) == {}

    def test_counts_draws_as_asked(self, columns, tmp_path):
        (step,) = select(folder_of(tmp_path, [columns]), Rule((self.STEP,))).steps
        assert (step.before, step.unranked, step.asked) == (100, 2, 150)
        assert 40 <= step.kept < 98
        assert str(step.step) == "sample by exp(w), 0.2 less for each draw"

    def test_a_column_of_that_name_is_refused(self, columns, tmp_path):
        query = folder_of(tmp_path, [{**columns, "Times": np.zeros(100)}])
        with pytest.raises(SelectionError, match="adds a column times, which these rows have"):
            self.drawn(query)

    @pytest.mark.parametrize(
        ("step", "error", "message"),
        [
            ({"penalty": 0.1, "by": "w", "sample": Amount(3)}, UsageError, "with `by_log`"),
            ({"per_round": 5, "by_log": "w", "sample": Amount(3)}, UsageError, "with `penalty`"),
            ({"penalty": -1.0, "by_log": "w", "sample": Amount(3)}, SelectionError, "is -1.0"),
            ({"penalty": np.nan, "by_log": "w", "sample": Amount(3)}, SelectionError, "is nan"),
        ],
    )
    def test_mistakes_are_named(self, step, error, message):
        with pytest.raises(error, match=message):
            Step(**step)
