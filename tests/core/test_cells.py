import numpy as np
import torch

from clipdre.core.cells import Cells
from tests.core.oracle import unit_rows


def example():
    rng = np.random.default_rng(0)
    centres = unit_rows(rng, 6, 32)
    groups = [
        centre + 0.02 * rng.standard_normal((n, 32))
        for centre, n in zip(centres, (200, 5, 80, 40, 1, 300), strict=True)
    ]
    cells = Cells(
        torch.tensor(np.array([g.mean(axis=0) for g in groups]), dtype=torch.float32),
        torch.tensor([len(g) for g in groups]),
        torch.tensor([g.var(axis=0).mean() for g in groups], dtype=torch.float32),
    )
    return groups, cells


def test_log_mass_predicts_the_sum_of_exponentials():
    groups, cells = example()
    queries = unit_rows(np.random.default_rng(1), 20, 32)
    found = cells.log_mass(torch.tensor(queries, dtype=torch.float32), 30.0).numpy()
    for n, group in enumerate(groups):
        exact = np.log(np.exp(30.0 * queries @ group.T).sum(axis=1))
        assert np.abs(found[:, n] - exact).mean() < 0.6, n


def test_a_wider_margin_takes_more_cells_and_the_largest_is_always_there():
    _, cells = example()
    queries = torch.tensor(unit_rows(np.random.default_rng(2), 50, 32), dtype=torch.float32)
    mass = cells.log_mass(queries, 30.0)
    narrow, wide = cells.near(queries, 30.0, 0.0), cells.near(queries, 30.0, 20.0)
    assert (narrow <= wide).all()
    assert narrow.gather(1, mass.argmax(dim=1, keepdim=True)).all()
    assert (narrow.sum(dim=1) == 1).all()
    assert cells.near(queries, 30.0, 1e4).all()


def test_the_choice_does_not_depend_on_the_batch():
    _, cells = example()
    queries = torch.tensor(unit_rows(np.random.default_rng(3), 10, 32), dtype=torch.float32)
    alone = torch.cat([cells.near(row[None], 30.0, 5.0) for row in queries])
    assert torch.equal(cells.near(queries, 30.0, 5.0), alone)


def test_empty_cells_are_never_taken():
    cells = Cells(torch.eye(3), torch.tensor([4, 0, 2]), torch.full((3,), 0.01))
    assert not cells.near(torch.eye(3), 100.0, 1e6)[:, 1].any()
