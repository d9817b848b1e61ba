import numpy as np
import pytest
from scipy import stats

from evidence.picture import Panel, picture
from evidence.report import interval, paired, tables, weighted_table


def row(rule, budget, seed, accuracy, teacher="model"):
    return {
        "pool": "small",
        "teacher": teacher,
        "rule": rule,
        "budget": budget,
        "seed": seed,
        "steps": 250,
        "accuracy": accuracy,
        "clean": 0.5,
    }


def test_intervals_are_those_of_students_t():
    values = [0.1, 0.4, 0.3, 0.2]
    found = interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(0.25)


def test_textbook_interval():
    """Three values 1, 2, 3: mean 2, standard error 1/sqrt(3), t(0.975, 2) = 4.3027."""
    found = interval([1.0, 2.0, 3.0])
    assert found.high - found.mean == pytest.approx(4.3027 / np.sqrt(3), abs=1e-4)


def test_pairs_are_of_seeds_that_both_have():
    found = paired({0: 0.5, 1: 0.6, 2: 0.9}, {0: 0.4, 1: 0.4, 7: 0.0})
    assert found.n == 2
    assert found.mean == pytest.approx(0.15)


def test_pairing_removes_what_seeds_share():
    noise = [0.0, 0.3, -0.2, 0.1]
    one = {seed: 0.6 + n for seed, n in enumerate(noise)}
    other = {seed: 0.5 + n for seed, n in enumerate(noise)}
    found = paired(one, other)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


def test_intervals_are_shown_from_three_seeds_on():
    assert str(interval([0.015])) == "+1.5"
    assert str(interval([0.01, 0.02])) == "+1.5"
    assert str(interval([0.01, 0.02, 0.03])) == "+2.0 (-0.5 to +4.5)"


def test_tables_compare_within_a_group():
    rows = [
        row("similarity", 0.2, 0, 0.5),
        row("similarity", 0.2, 1, 0.6),
        row("log_ratio", 0.2, 0, 0.6),
        row("log_ratio", 0.2, 1, 0.7),
        row("random", 0.2, 0, 0.3, teacher="none"),
        row("similarity", 0.2, 0, 0.9, teacher="other"),
    ]
    one, other = tables(rows)
    assert "| log_ratio | 0.650 (2) | +10.0 | 50% |" in one
    assert "| random | 0.300 (1) | -20.0 | 50% |" in one
    assert "| random | 0.300 (1) | -60.0 | 50% |" in other


def test_weighted_students_are_compared_with_plain_ones():
    rows = [
        {"domain": "star", "arm": arm, "seed": seed, "inside_f1": f1, "outside": 0.5, "ess": 1.0}
        for arm, f1s in (("unweighted", (0.5, 0.6)), ("weights", (0.55, 0.65)))
        for seed, f1 in enumerate(f1s)
    ]
    table = weighted_table(rows)
    assert "| star | weights | 2 | 0.600 | +5.0 | 0.500 | +0.0" in table


def test_the_picture_shows_each_rule():
    rows = [
        row(rule, budget, 0, 0.5 + budget)
        for rule in ("similarity", "log_ratio")
        for budget in (0.1, 0.2)
    ]
    drawn = picture(
        [*rows, row("everything", 1.0, 0, 0.4, "none")], [Panel("small", "model", "a pool")]
    )
    assert drawn.startswith("<svg")
    assert "similarity" in drawn
    assert "the whole pool" in drawn
    assert "a pool" in drawn
