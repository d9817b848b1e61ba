import numpy as np
import pytest

from clipdre.formats.folders.folder import ScoreFolder
from clipdre.looking.axes import axes_of, axis_rows
from clipdre.looking.edges import EDGES, count_between, edges_of, kept_mask
from clipdre.looking.look import edges_of_axes
from clipdre.looking.points import sample_points
from clipdre.selecting.rules import Amount, Rule, Step
from clipdre.selecting.select import select
from clipdre.sql.query import ScoreQuery
from tests.helpers import write_score_folder


@pytest.mark.parametrize(
    ("low", "high"), [(-31.4, 8.2), (0.0, 1.0), (1e-6, 2e-6), (-4e9, 7e11), (999.0, 1000.0)]
)
def test_edges_are_round_and_many_and_cover_nearly_all_values(low, high):
    values = np.random.default_rng(0).uniform(low, high, 10_000)
    edges = np.array(edges_of(values, whole=False), np.float64)
    assert EDGES <= len(edges) <= 2.5 * EDGES + 3
    assert f"{np.diff(edges).mean():.0e}"[0] in "125"
    assert np.ptp(np.diff(edges)) < 1e-6 * np.diff(edges).mean() + 1e-12 * abs(high)
    assert np.mean((values >= edges[0]) & (values <= edges[-1])) > 0.997


@pytest.mark.parametrize(
    ("values", "whole", "edges"),
    [
        ([], False, ("0", "1")),
        ([3.0, 3.0], False, ("3", "3.2")),
        ([0.0, 0.0], False, ("0", "1")),
        ([1.0, 2.0, 4.0], True, ("1", "2", "3", "4")),
        ([1e-40, 2e-40], False, ("0", "1")),
    ],
)
def test_edges_of_few_values(values, whole, edges):
    assert edges_of(np.array(values), whole=whole) == edges


def test_counts_are_those_that_conditions_keep(tmp_path):
    """Also of values on an edge, and of 32-bit ones that are next to it."""
    generator = np.random.default_rng(1)
    decimals = generator.integers(-50, 50, 400) / 10
    ratios = decimals.astype(np.float32)
    decimals[:3] = -9.0  # they are not kept
    ratios[:3] = np.nan, np.inf, -np.inf
    tables = [
        {
            "key": [f"{n}{k}" for k in range(200)],
            "key_hash": generator.integers(0, 2**63, 200).astype(np.uint64),
            "caption": ["a"] * 200,
            "log_ratio": ratios[200 * n : 200 * n + 200],
            "double": decimals[200 * n : 200 * n + 200],
            "whole": generator.integers(0, 30, 200),
        }
        for n in range(2)
    ]
    query = ScoreQuery(ScoreFolder(tmp_path), write_score_folder(tmp_path, tables))
    kept = select(query, Rule((Step(by="double", top=Amount(0.3)),)))
    for histogram in histograms(query, kept):
        finite = f"isfinite({histogram.axis.column.name}::DOUBLE)"
        at_least = histogram.pool.sum() - np.cumsum(histogram.pool)[:-1]
        for edge, count in list(zip(histogram.edges, at_least, strict=True))[::7]:
            condition = f"{histogram.axis.column.name} >= {edge}"
            found = select(query, Rule((Step(where=f"{finite} AND {condition}"),)))
            assert len(found) == count, condition
        assert histogram.pool.sum() + histogram.missing == 400
        assert histogram.kept.sum() == len(kept) == 120
    assert [h.missing for h in histograms(query, kept)] == [3, 0, 0, 0]


def histograms(query, kept):
    axes = axes_of(query)
    rows = axis_rows(query, axes)
    points = sample_points(rows, axes, 1000)
    return count_between(rows, edges_of_axes(axes, points), [kept_mask(kept)])
