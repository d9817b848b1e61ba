import numpy as np
import pytest

from clipdre.config import SelectConfig
from clipdre.errors import SelectionError
from clipdre.formats.query import ScoreQuery
from clipdre.formats.score_folder import ScoreFolder
from clipdre.stages.select import asked_count, parse_top, select
from tests.conftest import read_scores


def chosen(scored, **rule):
    folder, manifest = scored
    selection = select(ScoreQuery(ScoreFolder(folder), manifest), 300, SelectConfig(**rule))
    return selection, (selection.rows.shard * 100 + selection.rows.row).tolist()


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("25%", 0.25),
        ("0.25", 0.25),
        ("25", 25),
        ("1", 1),
        ("1.0", 1.0),
        ("100%", 1.0),
        ("1e-3", 1e-3),
    ],
)
def test_parse_top(text, amount):
    parsed = parse_top(text)
    assert parsed == pytest.approx(amount)
    assert type(parsed) is type(amount)


@pytest.mark.parametrize(
    "text", ["0", "-3", "0%", "101%", "1.5", "0.0", "many", "%", "nan", "1e999"]
)
def test_parse_top_refuses_what_keeps_nothing_or_too_much(text):
    with pytest.raises(
        SelectionError, match="give a count such as 1000, or a fraction such as 25%"
    ):
        parse_top(text)


@pytest.mark.parametrize(
    ("amount", "rows", "asked"),
    [(0.25, 10, 3), (0.25, 9, 2), (1.0, 7, 7), (5, 3, 5), (0.001, 10, 0)],
)
def test_a_fraction_is_rounded_half_up(amount, rows, asked):
    assert asked_count(amount, rows) == asked


def test_the_top_is_exact_and_the_best(scored):
    values = read_scores(*scored)["log_ratio"].to_numpy()
    selection, rows = chosen(scored, by="log_ratio", top=0.25)
    assert len(rows) == selection.asked == 75
    rest = np.setdiff1d(np.arange(300), rows)
    assert values[rows].min() >= values[rest].max()


def test_where_comes_first_and_fractions_are_of_what_it_left(scored):
    table = read_scores(*scored)
    long = np.array([len(caption) > 20 for caption in table["caption"].to_pylist()])
    selection, rows = chosen(scored, where="length(caption) > 20", by="kl_text", top=0.5)
    assert selection.after_where == long.sum()
    assert len(rows) == int(long.sum() / 2 + 0.5)
    assert long[rows].all()


def test_ties_are_broken_by_key_hash_exactly(scored):
    hashes = read_scores(*scored)["key_hash"].to_numpy()
    _, rows = chosen(scored, by="width", top=40)
    assert rows == sorted(np.argsort(hashes)[:40].tolist())


def test_rows_without_a_value_are_never_kept_and_counted(scored):
    by = "CASE WHEN length(caption) > 20 THEN log_ratio END"
    selection, rows = chosen(scored, by=by, top=1.0)
    assert selection.unranked + len(rows) == 300
    assert 0 < selection.unranked < 300
    assert selection.asked == 300


def test_without_a_rank_the_condition_decides(scored):
    selection, rows = chosen(scored, where="similarity > 0.5")
    expected = np.flatnonzero(read_scores(*scored)["similarity"].to_numpy() > 0.5)
    assert rows == expected.tolist()
    assert len(chosen(scored)[1]) == 300
    assert selection.asked == len(expected)


@pytest.mark.parametrize("rule", [{"by": "log_ratio"}, {"top": 5}])
def test_half_a_rank_is_refused(scored, rule):
    with pytest.raises(SelectionError, match="--by and --top belong together"):
        chosen(scored, **rule)
