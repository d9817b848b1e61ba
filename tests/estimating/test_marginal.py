import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from clipdre.config import EstimateConfig, ReferenceMethod
from clipdre.core.modality import Modality
from clipdre.core.tiles import tile_partition
from clipdre.errors import ScoresError
from clipdre.estimating.groups import NOBODY
from clipdre.estimating.marginal import Bulk, Marginal, Places, Reading
from clipdre.formats.folders.reference import CURE, ReferenceFolder
from tests.core.estimates import assert_matches, estimates
from tests.core.oracle import clustered_pool, of_query
from tests.estimating.stored import NaiveCells, store

N, FOLDS = 400, 16
CPU = torch.device("cpu")
CONFIGS = {
    "exact": EstimateConfig(ReferenceMethod.EXACT),
    "stratified": EstimateConfig(ReferenceMethod.STRATIFIED, neighbors=40, bulk=96),
    "sample": EstimateConfig(ReferenceMethod.SAMPLE, bulk=96),
}
# Queries whose partitions are computed.
ROWS = np.arange(0, N, 5)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    images, texts = clustered_pool(seed=2, n=N, d=16, noise=0.5)
    return store(tmp_path_factory.mktemp("marginal"), images, texts, (150, 0, 250))


@pytest.fixture(scope="module")
def references(stored):
    return {name: stored.reference(config, name) for name, config in CONFIGS.items()}


def marginal(references, method, modality, pool=None):
    """The pool's vectors of a modality as counterparts."""
    return Marginal(*references[method], modality, CPU, pool)


def partition(stored, counterparts, queries, strangers=False, **options):
    """Partition and mean logit of `ROWS` of a modality."""
    vectors = stored.pool.take(queries, ROWS)
    pairs = torch.from_numpy(np.diag(stored.logits(queries))[ROWS].copy())
    places = counterparts.places(stored.hashes[ROWS]).numpy()
    groups = torch.tensor(counterparts.groups[places])
    if strangers:
        groups = torch.full_like(groups, NOBODY)
    return counterparts.partition(vectors, groups, pairs, Reading(**options))


def others(stored, queries):
    """Logits of each of `ROWS` with all counterparts but its own."""
    logits = stored.logits(queries)
    return [np.delete(logits[row], row) for row in ROWS]


def naive(logits, near, bulk, left_out):
    """Estimate one query from its near counterparts and a bulk that stands for the rest."""
    near, bulk = near.copy(), [m for m in bulk if not near[m] and m != left_out]
    near[left_out] = False
    rest = N - 1 - near.sum()
    s = np.concatenate([logits[near], logits[bulk]])
    weights = np.concatenate([np.ones(near.sum()), np.full(len(bulk), rest / len(bulk))])
    mass = weights * np.exp(s)
    log_partition = np.log(mass.sum() / (N - 1))
    kl = (mass / mass.sum() * s).sum() - log_partition
    return {
        "log_partition": log_partition,
        "kl": kl,
        "ess": mass.sum() ** 2 / (mass * np.exp(s)).sum(),
    }


def assert_estimates(found, expected):
    for name, values in estimates(found.whole()).items():
        wanted = [row[name] for row in expected]
        np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-4, err_msg=name)


def smallest(stored, start, stop):
    """Rows of the smallest hashes of each half: the bulk."""
    order = np.argsort(stored.hashes)
    halves = stored.hashes[order] % np.uint64(2)
    return np.concatenate([order[halves == half][start // 2 : stop // 2] for half in (0, 1)])


@pytest.mark.parametrize("queries", Modality)
@pytest.mark.parametrize("blocks", [(1024, 2048), (7, 33)])
def test_exact_matches_the_oracle(stored, references, queries, blocks, monkeypatch):
    monkeypatch.setattr("clipdre.estimating.marginal.BLOCKS", {"cpu": blocks})
    found, mean = partition(stored, marginal(references, "exact", queries.other), queries)
    expected = others(stored, queries)
    assert found.folds.weight.shape == (len(ROWS), 0)
    assert found.rest.abs().max() == 0
    assert_matches(found.whole(), expected, tolerance=2e-5)
    np.testing.assert_allclose(mean, [row.mean() for row in expected], atol=1e-5)


@pytest.mark.parametrize("queries", Modality)
def test_queries_of_another_pool_meet_all_counterparts(stored, references, queries):
    found, mean = partition(
        stored, marginal(references, "exact", queries.other), queries, strangers=True
    )
    expected = stored.logits(queries)[ROWS]
    assert_matches(found.whole(), expected, tolerance=2e-5)
    np.testing.assert_allclose(mean, expected.mean(axis=1), atol=1e-5)


@pytest.mark.parametrize("queries", Modality)
@pytest.mark.parametrize("blocks", [(1024, 2048), (7, 33)])
def test_sample_matches_a_naive_estimate(stored, references, queries, blocks, monkeypatch):
    monkeypatch.setattr("clipdre.estimating.marginal.BLOCKS", {"cpu": blocks})
    found, mean = partition(stored, marginal(references, "sample", queries.other), queries)
    logits, bulk = stored.logits(queries), smallest(stored, 0, 96)
    none = np.zeros(N, bool)
    assert_estimates(found, [naive(logits[row], none, bulk, row) for row in ROWS])
    # The bulk leaves out a query's own counterpart too.
    inside = np.isin(ROWS, bulk)
    assert 0 < inside.sum() < len(ROWS)
    np.testing.assert_array_equal(found.folds.weight.sum(dim=1), 96 - inside)
    assert found.folds.weight.shape == (len(ROWS), FOLDS)
    np.testing.assert_array_equal(found.rest.sum(dim=1), np.full(len(ROWS), N - 1))
    # The mean logit is known exactly.
    np.testing.assert_allclose(mean, [row.mean() for row in others(stored, queries)], atol=1e-5)


@pytest.mark.parametrize("queries", Modality)
@pytest.mark.parametrize("margin", [None, 0.0, 1.5, 4.0])
@pytest.mark.parametrize("blocks", [(1024, 2048), (7, 11)])
def test_stratified_matches_a_naive_estimate(
    stored, references, queries, margin, blocks, monkeypatch
):
    tiles = []

    def measured(scaled, members, *args):
        tiles.append((len(scaled) * len(members), len(members)))
        return tile_partition(scaled, members, *args)

    monkeypatch.setattr("clipdre.estimating.marginal.tile_partition", measured)
    monkeypatch.setattr("clipdre.estimating.marginal.BLOCKS", {"cpu": blocks})
    counterparts = marginal(references, "stratified", queries.other)
    found, _ = partition(stored, counterparts, queries, margin=margin)
    folder, record = references["stratified"]
    used = record.near[queries.other].margin if margin is None else margin
    cells = NaiveCells.read(folder.path, queries.other, stored.hashes)
    near = cells.near(stored.vectors[queries][ROWS], used)[:, cells.cell]
    logits, bulk = stored.logits(queries), smallest(stored, 0, 96)
    expected = [naive(logits[row], near[n], bulk, row) for n, row in enumerate(ROWS)]
    assert_estimates(found, expected)
    sizes = near.sum(axis=1) - near[np.arange(len(ROWS)), ROWS]
    np.testing.assert_array_equal(found.near.weight.sum(dim=1), sizes)
    np.testing.assert_array_equal(found.rest.sum(dim=1), N - 1 - sizes)
    of_half = found.near.weight + found.rest
    halves = stored.hashes % np.uint64(2)
    own = halves[ROWS]
    for half in (0, 1):
        np.testing.assert_array_equal(of_half[:, half], (halves == half).sum() - (own == half))
    assert sizes.max() < N - 1
    # Memory does not grow with the cells.
    assert max(size for size, _ in tiles) <= blocks[0] * blocks[1]
    assert max(members for _, members in tiles) <= blocks[1]


def test_a_wider_margin_evaluates_more(stored, references):
    counterparts = marginal(references, "stratified", Modality.TEXT)
    sizes = [
        partition(stored, counterparts, Modality.IMAGE, margin=margin)[0]
        .near.weight.sum(dim=1)
        .mean()
        for margin in (0.0, 1.5, 4.0, 12.0)
    ]
    assert sorted(sizes) == sizes
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize("queries", Modality)
def test_everything_near_equals_exact(stored, references, queries):
    counterparts = marginal(references, "stratified", queries.other)
    found, mean = partition(stored, counterparts, queries, margin=1e6)
    expected = others(stored, queries)
    assert found.folds.weight.sum() == 0
    assert found.rest.abs().max() == 0
    assert_matches(found.whole(), expected, tolerance=2e-5)
    np.testing.assert_allclose(mean, [row.mean() for row in expected], atol=1e-5)


@pytest.mark.parametrize("queries", Modality)
@pytest.mark.parametrize("method", ["stratified", "sample"])
def test_an_infinite_margin_is_exact(stored, references, queries, method):
    counterparts = marginal(references, method, queries.other, stored.pool)
    found, _ = partition(stored, counterparts, queries, margin=math.inf)
    assert found.folds.weight.shape == (len(ROWS), 0)
    assert_matches(found.whole(), others(stored, queries), tolerance=2e-5)


@pytest.mark.parametrize("queries", Modality)
@pytest.mark.parametrize("method", ["stratified", "sample"])
def test_another_bulk_takes_the_place_of_the_references(stored, references, queries, method):
    rows = smallest(stored, 100, 180)
    vectors = stored.pool.take(queries.other, rows)
    bulk = Bulk(vectors, stored.hashes[rows], folds=8)
    counterparts = marginal(references, method, queries.other)
    found, _ = partition(stored, counterparts, queries, bulk=bulk)
    assert found.folds.weight.shape == (len(ROWS), 8)
    near = np.zeros((len(ROWS), N), bool)
    if method == "stratified":
        folder, record = references[method]
        cells = NaiveCells.read(folder.path, queries.other, stored.hashes)
        margin = record.near[queries.other].margin
        near = cells.near(stored.vectors[queries][ROWS], margin)[:, cells.cell]
    logits = stored.logits(queries)
    expected = [naive(logits[row], near[n], rows, row) for n, row in enumerate(ROWS)]
    assert_estimates(found, expected)


def test_folds_hold_the_members_of_the_bulk_in_order(stored, references):
    found, _ = partition(stored, marginal(references, "sample", Modality.TEXT), Modality.IMAGE)
    logits = stored.logits(Modality.IMAGE)
    drawn = smallest(stored, 0, 96).reshape(2, -1)
    for k in (0, 5, FOLDS - 1):
        half, of_half = divmod(k, FOLDS // 2)
        members = drawn[half][of_half :: FOLDS // 2]  # every eighth of a half's smallest hashes
        for n, row in enumerate(ROWS[:20]):
            s = logits[row, [m for m in members if m != row]]
            expected = of_query(s)["log_partition"]
            value = found.folds.fold(k).log_mean_exp()[n]
            assert float(value) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("method", CONFIGS)
def test_no_queries_have_an_empty_partition(stored, references, method):
    """The last shards of a pool may have no rows."""
    nobody = stored.pool.read(Modality.IMAGE, 0, 0)
    counterparts = marginal(references, method, Modality.TEXT)
    found, mean = counterparts.partition(nobody, torch.empty(0).long(), torch.empty(0).double())
    assert found.whole().log_mean_exp().shape == mean.shape == (0,)
    assert found.folds.weight.shape == (0, 0 if method == "exact" else FOLDS)


def test_margins_are_those_of_the_reference(references):
    _, record = references["stratified"]
    for modality in Modality:
        assert marginal(references, "exact", modality).margin == math.inf
        assert marginal(references, "sample", modality).margin is None
        assert marginal(references, "stratified", modality).margin == record.near[modality].margin


def test_places_find_hashes():
    places = Places(np.array([7, 3, 2**64 - 1, 0], np.uint64))
    found = places(np.array([0, 2**64 - 1, 5, 7, 8, 3], np.uint64))
    assert found.tolist() == [3, 2, -1, 0, -1, 1]
    assert Places(np.array([], np.uint64))(np.array([1, 2], np.uint64)).tolist() == [-1, -1]
    assert places(np.array([], np.uint64)).tolist() == []


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    images, texts = clustered_pool(seed=2, n=N, d=16, noise=0.5)
    leaders = np.arange(N)
    leaders[[5, 10, 200]], leaders[[20, 21, 22, 399]] = 5, 20
    folder = tmp_path_factory.mktemp("groups")
    return store(folder, images, texts, (150, 0, 250), leaders)


@pytest.fixture(scope="module")
def of_groups(grouped):
    return {name: grouped.reference(config, name) for name, config in CONFIGS.items()}


class TestGroups:
    """Pairs of one group leave each other out: several are of one or two pairs, the rest alone."""

    def others(self, grouped, queries):
        logits = grouped.logits(queries)
        return [logits[row, grouped.leaders != grouped.leaders[row]] for row in ROWS]

    @pytest.mark.parametrize("queries", Modality)
    @pytest.mark.parametrize("method", ["exact", "stratified", "sample"])
    @pytest.mark.parametrize("blocks", [(1024, 2048), (7, 33)])
    def test_everything_but_the_group_matches_the_oracle(
        self, grouped, of_groups, queries, method, blocks, monkeypatch
    ):
        monkeypatch.setattr("clipdre.estimating.marginal.BLOCKS", {"cpu": blocks})
        counterparts = marginal(of_groups, method, queries.other, grouped.pool)
        found, mean = partition(grouped, counterparts, queries, margin=math.inf)
        expected = self.others(grouped, queries)
        assert found.rest.abs().max() == 0
        assert_matches(found.whole(), expected, tolerance=2e-5)
        np.testing.assert_allclose(mean, [row.mean() for row in expected], atol=1e-5)

    @pytest.mark.parametrize("queries", Modality)
    @pytest.mark.parametrize("half", [0, 1])
    def test_halves_match_the_oracle(self, grouped, of_groups, queries, half):
        counterparts = marginal(of_groups, "exact", queries.other)
        found, _ = partition(grouped, counterparts, queries)
        logits, mine = grouped.logits(queries), grouped.hashes % np.uint64(2) == half
        expected = [logits[row, (grouped.leaders != grouped.leaders[row]) & mine] for row in ROWS]
        assert_matches(found.half(half), expected, tolerance=2e-4)

    @pytest.mark.parametrize("method", ["stratified", "sample"])
    def test_near_and_bulk_leave_the_group_out(self, grouped, of_groups, method):
        queries = Modality.IMAGE
        found, mean = partition(grouped, marginal(of_groups, method, queries.other), queries)
        sizes = [len(row) for row in self.others(grouped, queries)]
        assert sorted(set(sizes)) == [N - 4, N - 3, N - 1]
        whole = found.near.weight.sum(dim=1) + found.rest.sum(dim=1)
        np.testing.assert_array_equal(whole, sizes)
        bulk = smallest(grouped, 0, 96)
        inside = [(grouped.leaders[bulk] == grouped.leaders[row]).sum() for row in ROWS]
        if method == "sample":
            np.testing.assert_array_equal(found.folds.weight.sum(dim=1), 96 - np.array(inside))
        expected = [row.mean() for row in self.others(grouped, queries)]
        np.testing.assert_allclose(mean, expected, atol=1e-5)


def forged(array, change):
    array = array.copy()
    if change == "negative":
        array[0] = -1
    elif change == "more":
        array[0] += 1
    elif change == "twice":
        of_one_half = array[array % 2 == 0]
        array[array == of_one_half.max()] = of_one_half[of_one_half > 2].min()
    elif change == "half":
        array[0] ^= array.dtype.type(1)
    elif change == "other":
        array[:] = np.random.default_rng(3).permutation(array)
    return array


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("pool_group_image", "negative"),
        ("pool_group_image", "twice"),
        ("pool_group_image", "half"),
        ("pool_hash_image", "half"),
        ("pool_hash_image", "other"),
        ("bulk_hash", "half"),
        ("bulk_hash", "other"),
        ("group_count", "negative"),
        ("group_count", "more"),
    ],
)
def test_forged_references_are_refused(stored, tmp_path, method, name, change):
    leaders = np.arange(N)
    leaders[[1, 2, 5]], leaders[10] = 0, 9
    grouped = replace(stored, folder=tmp_path, leaders=leaders)
    folder, record = grouped.reference(CONFIGS[method], "reference")
    copy = ReferenceFolder(tmp_path / "copy")
    shutil.copytree(folder.path, copy.path)
    path = copy.path / f"{name}.npy"
    if not path.exists():
        assert (method, name) == ("exact", "bulk_hash")
        return
    before = np.load(path)
    np.save(path, forged(before, change))
    with pytest.raises(ScoresError, match="is damaged") as caught:
        marginal({method: (copy, record)}, method, Modality.IMAGE)
    assert caught.value.cure == CURE
    np.save(path, before)
    marginal({method: (copy, record)}, method, Modality.IMAGE)
