import math
import shutil
import tempfile
from collections import Counter
from hashlib import blake2b
from pathlib import Path

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdre.errors import SelectionError, UnreliableEstimateWarning, UsageError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.selecting.request import Request
from clipdre.selecting.rules import Amount, Rule, Step
from clipdre.selecting.select import select
from clipdre.sql.query import ScoreQuery
from clipdre.sql.row_set import seeded_hash
from tests.helpers import chosen, read_scores, write_score_folder
from tests.selecting import naive_select as naive
from tests.sql.made_up import random_hashes, write_pool

TYPES = {
    "key": pa.string(),
    "key_hash": pa.uint64(),
    "x": pa.float32(),
    "w": pa.float64(),
    "c": pa.string(),
}
# Few values, so that ties, nulls and NaN are common.
values = st.one_of(
    st.sampled_from([None, math.nan, 0.0, 1.0, 2.5, -1.0]), st.floats(-4, 4, width=32)
)
weights = st.sampled_from([None, math.nan, 0.0, 0.25, 1.0, 8.0])
concepts = st.sampled_from([None, "dog", "cat", "nan"])
# Quantiles of these are exact.
grid = st.sampled_from([None, math.nan, -1.0, 0.0, 0.5, 1.0, 2.5])
grid_tables = st.lists(st.tuples(grid, weights, concepts), min_size=1, max_size=40)
tables = st.lists(st.tuples(values, weights, concepts), min_size=1, max_size=40)


def pool_of(drawn, shards, random):
    """Deal the drawn rows to shards; pairs of rows share a key."""
    hashes = random.sample(range(2**63 - 1), len(drawn))
    rows = [
        {"key": str(n // 2), "key_hash": h, "x": x, "w": w, "c": c}
        for n, (h, (x, w, c)) in enumerate(zip(hashes, drawn, strict=True))
    ]
    return [rows[n::shards] for n in range(shards)]


def kept_hashes(parts, rule):
    with tempfile.TemporaryDirectory() as folder:
        columns = [
            {n: pa.array([row[n] for row in part], kind) for n, kind in TYPES.items()}
            for part in parts
        ]
        manifest = write_score_folder(Path(folder), columns)
        selection = select(ScoreQuery(ScoreFolder(Path(folder)), manifest), rule)
        shard, row = selection.places
        assert len(row) == len(selection)
        found = [parts[s][r]["key_hash"] for s, r in zip(shard, row, strict=True)]
        places = list(zip(shard.tolist(), row.tolist(), strict=True))
        assert places == sorted(set(places))
        return Counter(found), selection


def test_steps_without_a_rank_have_no_threshold(scored):
    for step in (
        {"where": "log_ratio > 0"},
        {"sample": 0.5, "by": "kl_text"},
        {"by": "kl_text", "top": 0.5, "uniform": True},
        {"by": "kl_text", "balance": "caption", "cap": 1},
    ):
        assert chosen(scored, **step).threshold is None
    infinite = chosen(scored, by="-log(0 * log_ratio + 0)", top=3)
    assert len(infinite) in (0, 3)
    assert infinite.threshold is None


def hashes_of(rows):
    return Counter(row["key_hash"] for row in rows)


def random_order(hashes, seed):
    """Return the place of each key hash in the random order of `seed`, as DuckDB computes it."""
    sql = f"SELECT key_hash, {seeded_hash(seed)} FROM (SELECT unnest($1::UBIGINT[]) AS key_hash)"
    return dict(duckdb.execute(sql, [hashes]).fetchall())


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1), st.integers(-3, 2**40))
def test_seeded_hash_matches_its_definition(hashes, seed):
    """Multiply by the seed's odd hash, fold by half the bits, multiply by the golden ratio."""
    factor = int.from_bytes(blake2b(b"seed %d" % seed, digest_size=8).digest(), "little") | 1
    golden = 0x9E3779B97F4A7C15
    expected = {}
    for key_hash in hashes:
        product = key_hash * factor % 2**64
        expected[key_hash] = (product ^ product // 2**32) * golden % 2**64
    assert random_order(hashes, seed) == expected


# Each example makes files and a database.
checked = settings(max_examples=25)


class TestAgainstNaiveSelection:
    """Random tables with ties, nulls, NaN and repeated keys."""

    @checked
    @given(tables, st.integers(1, 45), st.sampled_from([1, -1]), st.randoms())
    def test_top_and_bottom(self, drawn, n, sign, random):
        parts = pool_of(drawn, 2, random)
        step = Step(by="x", **{"top" if sign > 0 else "bottom": Amount(n)})
        found, selection = kept_hashes(parts, Rule((step,)))
        rows = [row for part in parts for row in part]
        kept = naive.top(rows, n, sign)
        assert found == hashes_of(kept)
        assert selection.threshold == (kept[-1]["x"] if kept else None)
        assert selection.steps[0].unranked == sum(not naive.is_number(row["x"]) for row in rows)

    @checked
    @given(tables, st.integers(1, 45), st.integers(1, 6), st.integers(0, 3), st.randoms())
    def test_uniform(self, drawn, n, bins, seed, random):
        parts = pool_of(drawn, 2, random)
        rule = Rule((Step(by="x", top=Amount(n), uniform=True, bins=bins),), seed=seed)
        found, _ = kept_hashes(parts, rule)
        rows = [row for part in parts for row in part]
        order = random_order([row["key_hash"] for row in rows], seed)
        assert found == hashes_of(naive.uniform(rows, n, bins, order))
        assert found.total() == min(n, sum(naive.is_number(row["x"]) for row in rows))

    @checked
    @given(tables, st.integers(1, 45), st.booleans(), st.integers(0, 3), st.randoms())
    def test_sample(self, drawn, n, weighted, seed, random):
        parts = pool_of(drawn, 2, random)
        rule = Rule((Step(sample=Amount(n), by="w" if weighted else None),), seed=seed)
        found, _ = kept_hashes(parts, rule)
        rows = [row for part in parts for row in part]
        order = random_order([row["key_hash"] for row in rows], seed)
        assert found == hashes_of(naive.sample(rows, n, order, "w" if weighted else None))

    @checked
    @given(tables, st.integers(1, 4), st.booleans(), st.randoms())
    def test_balance(self, drawn, cap, ranked, random):
        parts = pool_of(drawn, 2, random)
        found, _ = kept_hashes(
            parts, Rule((Step(balance="c", cap=cap, by="x" if ranked else None),))
        )
        rows = [row for part in parts for row in part]
        order = None if ranked else random_order([row["key_hash"] for row in rows], 0)
        assert found == hashes_of(naive.balance(rows, cap, order))

    @checked
    @given(tables, st.booleans(), st.randoms())
    def test_balance_with_a_cap_of_each_row(self, drawn, ranked, random):
        parts = pool_of(drawn, 2, random)
        step = Step(balance="c", cap="w", by="x" if ranked else None)
        found, _ = kept_hashes(parts, Rule((step,)))
        rows = [row for part in parts for row in part if naive.is_number(row["w"])]
        order = None if ranked else random_order([row["key_hash"] for row in rows], 0)
        assert found == hashes_of(naive.balance(rows, None, order))

    @checked
    @given(grid_tables, st.integers(1, 45), st.randoms())
    def test_functions_cover_the_whole_pool(self, drawn, n, random):
        parts = pool_of(drawn, 2, random)
        rows = [row for part in parts for row in part]
        numbers = np.array([row["x"] for row in rows if naive.is_number(row["x"])])
        step = Step(
            where="x < 2.5 AND x >= quantile(x, 0.25)", by="rank(x) + zscore(x)", top=Amount(n)
        )
        found, _ = kept_hashes(parts, Rule((step,)))
        able = [
            row
            for row in rows
            if naive.is_number(row["x"])
            and row["x"] < 2.5
            and row["x"] >= np.quantile(numbers, 0.25)
        ]
        if np.ptp(numbers) if len(numbers) else 0:
            assert found.total() == min(n, len(able))
            best = sorted((row["x"] for row in able), reverse=True)[:n]
            by_hash = {row["key_hash"]: row["x"] for row in rows}
            assert sorted((by_hash[h] for h in found), reverse=True) == best

    @checked
    @given(tables, st.integers(1, 20), st.integers(1, 4), st.randoms())
    def test_order_of_rows_and_files_does_not_matter(self, drawn, n, shards, random):
        steps = (
            Step(balance="c", cap=9, by="x"),
            Step(sample=Amount(2 * n)),
            Step(by="x", top=Amount(n), uniform=True, bins=3),
        )
        parts = pool_of(drawn, 1, random)
        straight, _ = kept_hashes(parts, Rule(steps))
        shuffled = [row for part in parts for row in part]
        random.shuffle(shuffled)
        found, _ = kept_hashes([shuffled[k::shards] for k in range(shards)], Rule(steps))
        assert found == straight


def test_each_step_selects_from_the_previous_one(scored):
    table = read_scores(*scored)
    ratio, kl = table["log_ratio"].to_numpy(), table["kl_text"].to_numpy()
    steps = (
        Step(by="log_ratio", top=Amount(1.8, of_budget=True)),
        Step(by="kl_text", top=Amount(1.0, of_budget=True)),
    )
    query = ScoreQuery(ScoreFolder(scored[0]), scored[1])
    selection = select(query, Rule(steps, budget=Amount(0.2)))
    wide = np.argsort(-ratio, kind="stable")[:108]
    best = wide[np.argsort(-kl[wide], kind="stable")[:60]]
    shard, row = selection.places
    assert sorted(kl[shard * 100 + row]) == sorted(kl[best])
    assert [(s.before, s.asked, s.kept) for s in selection.steps] == [
        (300, 108, 108),
        (108, 60, 60),
    ]


def test_shares_refer_to_rows_that_meet_the_condition(scored):
    table = read_scores(*scored)
    long = np.array([len(caption) > 20 for caption in table["caption"].to_pylist()])
    selection = chosen(scored, where="length(caption) > 20", by="kl_text", top=0.5)
    shard, row = selection.places
    assert selection.steps[0].after_where == long.sum()
    assert len(row) == int(long.sum() / 2 + 0.5)
    assert long[shard * 100 + row].all()


def test_rows_without_a_value_are_counted_and_never_kept(scored):
    by = "CASE WHEN length(caption) > 20 THEN log_ratio END"
    (counted,) = chosen(scored, by=by, top=1.0).steps
    assert counted.unranked + counted.kept == 300
    assert 0 < counted.unranked < 300
    assert counted.asked == 300


def test_condition_alone_selects(scored):
    shard, row = chosen(scored, where="similarity > 0.5").places
    expected = np.flatnonzero(read_scores(*scored)["similarity"].to_numpy() > 0.5)
    assert (shard * 100 + row).tolist() == expected.tolist()
    assert len(chosen(scored)) == 300
    assert len(chosen(scored, where="false")) == 0
    assert len(chosen(scored, by="width", top=1e-9)) == 0


def test_weighted_sample_draws_in_proportion_to_weights(tmp_path):
    """A small sample without replacement is nearly proportional to the weights."""
    weight = np.array([1.0, 2.0, 5.0])
    n = 3000
    hashes = np.random.default_rng(0).integers(0, 2**64, 3 * n, dtype=np.uint64)
    manifest = write_score_folder(
        tmp_path,
        [{"key": [str(k) for k in range(3 * n)], "key_hash": hashes, "w": np.tile(weight, n)}],
    )
    selection = chosen((tmp_path, manifest), sample=300, by="w")
    _, row = selection.places
    drawn = np.bincount(row % 3, minlength=3)
    np.testing.assert_allclose(drawn / 300, weight / 8, atol=0.09)
    other = chosen((tmp_path, manifest), sample=300, by="w", seed=1).places[1]
    assert len(np.intersect1d(row, other)) < 60


class TestDraw:
    @staticmethod
    def kept(scored, where, seed=0):
        query = ScoreQuery(ScoreFolder(scored[0]), scored[1])
        rule = Rule((Step(where=where),), seed=seed)
        return set(select(query, rule).table(["key_hash"])["key_hash"].to_pylist())

    @pytest.mark.parametrize("seed", [0, 7])
    def test_it_is_decided_by_key_hash_and_seed(self, scored, seed):
        factor = int.from_bytes(blake2b(b"draw %d" % seed, digest_size=8).digest(), "little") | 1
        expected = set()
        for key_hash in read_scores(*scored)["key_hash"].to_pylist():
            product = key_hash * factor % 2**64
            bits = (product ^ product // 2**32) * 0x9E3779B97F4A7C15 % 2**64
            if ((bits >> 11) + 0.5) / 2**53 < 0.3:
                expected.add(key_hash)
        assert self.kept(scored, "draw(0.3)", seed) == expected
        assert 60 < len(expected) < 120

    def test_a_larger_chance_keeps_more_of_the_same(self, scored):
        few, many = (self.kept(scored, f"draw({p})") for p in (0.2, 0.6))
        assert few < many
        assert self.kept(scored, "draw(0.6) AND NOT DRAW (0.2)") == many - few
        assert self.kept(scored, "draw(0.6) AND draw(0.2) AND caption <> 'draw(0)'") == few

    @pytest.mark.parametrize(
        ("p", "rows"), [("1.0", 300), ("0", 0), ("-1", 0), ("NULL", 0), ("'nan'::DOUBLE", 0)]
    )
    def test_chances_at_the_ends(self, scored, p, rows):
        assert len(self.kept(scored, f"draw({p})")) == rows

    def test_each_row_has_its_own_chance(self, scored):
        where = "draw(CASE WHEN caption LIKE '%red%' THEN 1 ELSE 0 END)"
        assert self.kept(scored, where) == self.kept(scored, "caption LIKE '%red%'")

    def test_a_sample_of_what_was_drawn_does_not_depend_on_the_draw(self, tmp_path):
        """With one stream for both, those drawn would have small perturbations."""
        n = 20_000
        columns = {"key_hash": random_hashes(n), "w": np.where(np.arange(n) % 2, 1.0, 9.0)}
        manifest = write_pool(tmp_path, [n], columns)
        query = ScoreQuery(ScoreFolder(tmp_path), manifest)
        step = Step(where="draw(0.1)", sample=Amount(200), by="w")
        heavy = (select(query, Rule((step,))).table(["w"])["w"].to_numpy() == 9).mean()
        assert heavy == pytest.approx(0.9, abs=0.07)

    @pytest.mark.parametrize("where", ["draw()", "draw(0.5, 0.5)", "draw('a')"])
    def test_a_wrong_chance_is_refused(self, scored, where):
        with pytest.raises(SelectionError, match="cannot use `where`"):
            self.kept(scored, where)


class TestLogWeights:
    WEIGHTS = np.array([0.25, 1.0, 8.0, 0.0, np.nan])

    @pytest.fixture
    def pool(self, tmp_path):
        weights = np.tile(self.WEIGHTS, 200)
        with np.errstate(divide="ignore"):
            logs = np.log(weights)
        columns = {"key_hash": random_hashes(1000), "w": weights, "log_w": logs}
        return tmp_path, write_pool(tmp_path, [600, 400], columns)

    def kept(self, pool, **step):
        query = ScoreQuery(ScoreFolder(pool[0]), pool[1])
        return select(query, Rule((Step(sample=Amount(250), **step),)))

    @pytest.mark.parametrize("moved", ["log_w", "log_w + 5000", "log_w - 5000"])
    def test_they_draw_what_the_weights_draw(self, pool, moved):
        expected = self.kept(pool, by="w")
        found = self.kept(pool, by_log=moved)
        assert (found.places.shard == expected.places.shard).all()
        assert (found.places.row == expected.places.row).all()
        assert found.steps[0].unranked == 400  # weights of zero and NaN
        assert str(found.rule.steps[0]) == f"sample by exp({moved})"

    def test_an_infinite_one_is_refused(self, pool):
        with pytest.raises(SelectionError, match=r"`by_log` '1e999 \+ w' is infinite in 800 rows"):
            self.kept(pool, by_log="1e999 + w")

    @pytest.mark.parametrize(
        ("step", "message"),
        [
            (
                {"by_log": "w", "top": Amount(3), "by": "w"},
                "by_log` can only be used with `sample`",
            ),
            ({"by_log": "w", "by": "w", "sample": Amount(3)}, "`by_log` cannot be used with `by`"),
        ],
    )
    def test_they_are_weights_of_a_sample(self, step, message):
        with pytest.raises(UsageError, match=message):
            Step(**step)


def test_refuses_negative_weights(scored):
    with pytest.raises(
        SelectionError, match=r"the weight `by` .* is negative or infinite in 300 rows"
    ):
        chosen(scored, sample=10, by="log_ratio - 1000")


def test_columns_may_be_named_like_a_rules_expressions(tmp_path):
    columns = {"key": list("abcd"), "key_hash": np.arange(4, dtype=np.uint64), "x": [3.0, 1, 4, 2]}
    columns |= {name: ["text"] * 4 for name in ("where_0", "by_0", "balance_0")}
    manifest = write_score_folder(tmp_path, [columns])
    step = {"where": "where_0 = 'text' AND x > 1", "by": "x", "balance": "by_0", "cap": 2, "top": 1}
    assert chosen((tmp_path, manifest), **step).places[1].tolist() == [2]


def test_finds_thresholds_in_several_passes(tmp_path, monkeypatch):
    """Many values are tied at the threshold."""
    monkeypatch.setattr("clipdre.sql.largest.FETCHED", 300)
    monkeypatch.setattr("clipdre.sql.largest.SAMPLED", 100)
    rng = np.random.default_rng(3)
    x = np.round(rng.normal(size=20_000), 1)
    hashes = rng.integers(0, 2**64, len(x), dtype=np.uint64)
    manifest = write_score_folder(
        tmp_path, [{"key": [str(n) for n in range(len(x))], "key_hash": hashes, "x": x}]
    )
    for n in (1, 17, 5000, 19_999):
        _, row = chosen((tmp_path, manifest), by="x", top=n).places
        expected = np.lexsort((hashes, -x))[:n]
        assert row.tolist() == sorted(expected.tolist())
    _, row = chosen((tmp_path, manifest), by="1.0", top=777).places
    assert row.tolist() == sorted(np.argsort(hashes)[:777].tolist())


def test_never_draws_weights_of_zero_in_several_passes(tmp_path, monkeypatch):
    monkeypatch.setattr("clipdre.sql.largest.FETCHED", 300)
    monkeypatch.setattr("clipdre.sql.largest.SAMPLED", 100)
    rng = np.random.default_rng(4)
    weight = rng.choice([0.0, 0.0, 0.0, 1.0, 3.0], 50_000)
    hashes = rng.integers(0, 2**64, len(weight), dtype=np.uint64)
    keys = [str(n) for n in range(len(weight))]
    manifest = write_score_folder(tmp_path, [{"key": keys, "key_hash": hashes, "w": weight}])
    selection = chosen((tmp_path, manifest), sample=5000, by="w")
    assert selection.steps[0].unranked == (weight == 0).sum()
    _, row = selection.places
    assert (weight[row] > 0).all()
    assert 1.5 < (weight[row] == 3).sum() / (weight[row] == 1).sum() < 3


KEYWORDS = ["offset", "order", "limit", "left", "true", "default", "user", "current_date", "rank"]


@pytest.mark.parametrize("name", KEYWORDS)
def test_columns_may_have_the_names_of_keywords(tmp_path, name):
    x = np.random.default_rng(4).permutation(40)
    columns = {"key_hash": random_hashes(40), name: x, f"{name}_se": np.zeros(40)}
    scored = tmp_path, write_pool(tmp_path, (25, 15), columns)
    for step, kept in (
        ({"by": name, "top": 7}, x >= 33),
        ({"by": name.upper(), "bottom": 7}, x < 7),
        ({"by": name, "top": 7, "uniform": True, "bins": 40}, x >= 33),
        ({"by": name, "balance": f'"{name}" < 20', "cap": 1}, (x == 19) | (x == 39)),
        ({"by": name, "sample": 39}, x > 0),
        ({"balance": name, "cap": 1}, x >= 0),
    ):
        shard, row = chosen(scored, **step).places
        assert (25 * shard + row).tolist() == np.flatnonzero(kept).tolist(), step
    if name not in ("true", "default"):
        _, row = chosen(scored, where=f"{name} >= 33 AND {name} < 40").places
        assert len(row) == 7


class TestJoinedColumns:
    def joined(self, tmp_path, columns):
        pq.write_table(pa.table(columns), tmp_path / "more.parquet")
        return [tmp_path / "more.parquet"]

    def test_join_by_shard_and_key(self, scored, tmp_path):
        table = read_scores(*scored).slice(50, 100)
        columns = {"shard": table["shard"], "key": table["key"], "beauty": np.arange(100.0)}
        selection = chosen(scored, self.joined(tmp_path, columns), by="beauty", top=0.5)
        shard, row = selection.places
        assert (shard * 100 + row).tolist() == list(range(50, 150))
        assert selection.steps[0].unranked == 200

    def test_join_by_key_hash_first(self, scored, tmp_path):
        table = read_scores(*scored)
        columns = {"key_hash": table["key_hash"], "key": ["x"] * 300, "beauty": np.arange(300)}
        _, row = chosen(scored, self.joined(tmp_path, columns), where="beauty < 7").places
        assert row.tolist() == list(range(7))

    def test_prefixes_duplicate_column_names_with_the_file_name(self, scored, tmp_path):
        table = read_scores(*scored)
        columns = {"key_hash": table["key_hash"], "width": np.full(300, 5)}
        joined = self.joined(tmp_path, columns)
        assert len(chosen(scored, joined, where="more_width = 5 AND width > 5")) == 300
        with pytest.warns(
            UserWarning, match="`where` reads width of the scores; that of more"
        ) as w:
            assert len(chosen(scored, joined, where="width > 5")) == 300
        assert str(w[0].message).endswith('of more.parquet is "more_width"')
        with pytest.warns(UserWarning, match="`by` reads width of the scores"):
            chosen(scored, joined, by="Width", top=3)

    @pytest.mark.parametrize(
        "columns", [{"beauty": [1.0]}, {"key": ["a", "a"], "beauty": [1.0, 2.0]}]
    )
    def test_refuses_files_without_unique_keys(self, scored, tmp_path, columns):
        with pytest.raises(SelectionError, match=r"more\.parquet"):
            chosen(scored, self.joined(tmp_path, columns))

    def test_refuses_files_that_are_not_parquet(self, scored, tmp_path):
        (tmp_path / "more.parquet").write_text("beauty\n1")
        with pytest.raises(SelectionError, match=r"more\.parquet"):
            chosen(scored, [tmp_path / "more.parquet"])
        with pytest.raises(SelectionError, match=r"none\.parquet"):
            chosen(scored, [tmp_path / "none.parquet"])


def test_nan_is_missing_even_if_all_other_values_are_equal():
    rows = [
        {"key": str(n), "key_hash": n, "x": x, "w": None, "c": "dog"}
        for n, x in enumerate([0.0, math.nan, math.nan])
    ]
    for step in (
        Step(by="x", top=Amount(3)),
        Step(balance="c", cap=9, by="x"),
        Step(where="x = 0"),
    ):
        found, _ = kept_hashes([rows], Rule((step,)))
        assert found == Counter([0])


def test_warns_of_columns_that_another_reference_would_change(tmp_path):
    table = {
        "key": ["a", "b", "c"],
        "key_hash": [1, 2, 3],
        "good": [0.0, 1.0, 2.0],
        "good_se": [0.1, 0.1, 0.1],
        "bad": [0.0, 1.0, 2.0],
        "bad_se": [0.5, 0.5, 0.5],
    }
    scored = tmp_path, write_score_folder(tmp_path, [table])
    assert len(chosen(scored, by="good", top=1)) == 1  # warnings are errors
    # 1 - 0.5^2 / (2 / 3)
    with pytest.warns(UnreliableEstimateWarning, match=r"bad has a reliability of 0\.62, so"):
        chosen(scored, by="bad", top=1)


def test_errors_name_the_parameter_or_the_step_of_the_recipe(scored):
    query = ScoreQuery(ScoreFolder(scored[0]), scored[1])
    step = Step(by="caption", top=Amount(3))
    with pytest.raises(SelectionError, match=r"^cannot use `by` 'caption'"):
        select(query, Rule((step,)))
    with pytest.raises(SelectionError, match=r"^cannot use recipe mine, step 2: by 'caption'"):
        select(query, Rule((Step(), step), name="mine"))


class TestPoolReliability:
    @pytest.mark.parametrize("column", ["kl_text", "KL_text"])
    def test_ranking_by_a_column_that_depends_on_the_pool_warns(self, scored, column):
        folder, manifest = scored
        small = msgspec.structs.replace(manifest, pool_reliability={"kl_text": 0.84})
        with pytest.warns(UnreliableEstimateWarning, match=r"pool reliability of 0\.84") as found:
            chosen((folder, small), by=column, top=10)
        assert len(found) == 1

    def test_other_columns_and_large_pools_do_not(self, scored):
        folder, manifest = scored
        large = {"kl_text": 0.84, "log_ratio": 0.9}
        manifest = msgspec.structs.replace(manifest, pool_reliability=large)
        assert len(chosen((folder, manifest), by="log_ratio", top=10)) == 10
        assert len(chosen((folder, manifest), where="kl_text > 1", sample=0.5)) > 0


class TestDistinct:
    def test_keeps_the_best_of_each_group_before_anything_else(self, scored):
        query = ScoreQuery(ScoreFolder(scored[0]), scored[1])
        ((groups,),) = query.fetchall("SELECT count(DISTINCT duplicate_group) FROM pool")
        assert groups < 300
        (rule,) = Request(distinct=True).rules(query)
        selection = select(query, rule)
        assert len(selection) == groups
        names = ["duplicate_group", "duplicate_rank"]
        table = pa.Table.from_batches(list(selection.rows.batches(names)))
        assert set(table["duplicate_rank"].to_pylist()) == {1}
        assert len(set(table["duplicate_group"].to_pylist())) == groups
        (rule,) = Request(distinct=True, where="kl_text > 2", by="log_ratio", top=0.5).rules(query)
        found = select(query, rule)
        assert found.steps[0].kept == groups
        assert len(found) == int(found.steps[1].after_where / 2 + 0.5)

    def test_needs_scores_that_know_what_is_alike(self, scored, tmp_path):
        folder = shutil.copytree(scored[0], tmp_path / "scores")
        shutil.rmtree(folder / "columns")
        query = ScoreQuery(ScoreFolder(folder), scored[1])
        with pytest.raises(SelectionError, match=r"`distinct` needs duplicate_rank.*score the sh"):
            Request(distinct=True).rules(query)
        with pytest.raises(SelectionError, match="recipe log-ratio-then-kl needs duplicate_rank"):
            Request(recipe="log-ratio-then-kl").rules(query)
