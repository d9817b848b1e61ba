from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from clipdre.config import EstimateConfig, Own, ReferenceMethod
from clipdre.core.modality import Modality
from clipdre.engines.local import InProcess
from clipdre.errors import InputError
from clipdre.estimating import reference as module
from clipdre.estimating.estimate import Estimator
from clipdre.estimating.reference import build_reference, leaders_of
from clipdre.formats.folders.reference import ReferenceFolder
from tests.core.oracle import clustered_pool
from tests.estimating.stored import SCALE, NaiveCells, model_of, store

N, D = 500, 16
EXACT = EstimateConfig(ReferenceMethod.EXACT)
STRATIFIED = EstimateConfig(ReferenceMethod.STRATIFIED, neighbors=40, bulk=100)
SAMPLE = EstimateConfig(ReferenceMethod.SAMPLE, bulk=100)
HELD_OUT = 256


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    images, texts = clustered_pool(seed=2, n=N, d=D, noise=0.5)
    return store(tmp_path_factory.mktemp("reference"), images, texts, (300, 200))


@pytest.fixture(scope="module")
def stratified(stored):
    return stored.reference(STRATIFIED, "stratified")


def modified(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir()}


def test_records_what_it_was_made_from(stored):
    _, record = stored.reference(SAMPLE, "recorded")
    assert msgspec.structs.asdict(record) | {"digest": ""} == {
        "method": "sample",
        "pairs": N,
        "bulk": 96,  # sixteen folds of six
        "folds": 16,
        "neighbors": 0,
        "model_digest": "made-up",
        "fingerprint": (),  # made-up models have none
        "logit_scale": SCALE,
        "logit_bias": stored.model.logit_bias,
        "embedding_dim": D,
        "digest": "",
        "near": {},
        "version": 2,
        "alike": 0.95,
        "own": "left-out",
        "inner_product": False,
    }


@pytest.mark.parametrize(
    ("config", "files"),
    [
        (EXACT, {"pool_image.npy", "pool_text.npy"}),
        (SAMPLE, {"bulk_hash.npy", "bulk_image.npy", "bulk_text.npy"}),
        (
            STRATIFIED,
            {
                *("pool_image.npy", "pool_text.npy"),
                *("bulk_hash.npy", "bulk_image.npy", "bulk_text.npy"),
                *("cells_image.npz", "cells_text.npz"),
            },
        ),
    ],
)
def test_writes_what_each_method_needs(stored, config, files):
    folder, record = stored.reference(config, f"files-{config.method.value}")
    always = {"reference.json", "moments.npz", "group_count.npy"}
    always |= {
        f"{name}_{modality}.npy"
        for name in ("pool_hash", "pool_group", "group_sum")
        for modality in Modality
    }
    assert {path.name for path in folder.path.iterdir()} == always | files
    assert folder.record() == record


@pytest.mark.parametrize("config", [EXACT, STRATIFIED, SAMPLE])
def test_moments_are_those_of_the_pool(stored, config):
    folder, _ = stored.reference(config, f"files-{config.method.value}")
    for modality, vectors in stored.vectors.items():
        moments = folder.moments(modality, vectors.shape[1])
        assert moments.count == N
        np.testing.assert_allclose(moments.mean, vectors.mean(axis=0), atol=1e-6)
        covariance = np.cov(vectors.T, bias=True)
        np.testing.assert_allclose(moments.covariance, covariance, atol=1e-6)


@pytest.mark.parametrize("modality", Modality)
def test_holds_every_vector_once_by_cell_and_half(stored, stratified, modality):
    folder, record = stratified
    hashes = np.load(folder.path / f"pool_hash_{modality}.npy")
    assert sorted(hashes.tolist()) == sorted(stored.hashes.tolist())
    row = {int(h): n for n, h in enumerate(stored.hashes)}
    rows = [row[int(h)] for h in hashes]
    vectors = np.load(folder.path / f"pool_{modality}.npy").astype(float)
    np.testing.assert_allclose(vectors, stored.vectors[modality][rows], atol=1e-3)
    cells = NaiveCells.read(folder.path, modality, stored.hashes)
    places = list(zip(cells.cell[rows].tolist(), (hashes % np.uint64(2)).tolist(), strict=True))
    assert places == sorted(places)
    assert cells.counts.sum() == N
    assert len(cells.counts) == record.near[modality].cells
    for n in np.flatnonzero(cells.counts):
        members = stored.vectors[modality][cells.cell == n]
        np.testing.assert_allclose(cells.centroids[n], members.mean(axis=0), atol=1e-3)
        assert cells.variances[n] == pytest.approx(members.var(axis=0).mean(), abs=1e-3)


class TestBulk:
    def test_is_the_rows_of_smallest_hash(self, stored, stratified):
        folder, _ = stratified
        hashes = np.load(folder.path / "bulk_hash.npy")
        halves = stored.hashes % np.uint64(2)
        smallest = [np.sort(stored.hashes[halves == half])[:48] for half in (0, 1)]
        assert sorted(hashes.tolist()) == sorted(np.concatenate(smallest).tolist())
        row = {int(h): n for n, h in enumerate(stored.hashes)}
        rows = [row[int(h)] for h in hashes]
        for modality, vectors in stored.vectors.items():
            found = np.load(folder.path / f"bulk_{modality}.npy").astype(float)
            np.testing.assert_allclose(found, vectors[rows], atol=1e-3)

    def test_is_the_same_if_hashes_repeat(self, stored):
        hashes = np.arange(N, dtype=np.uint64) % np.uint64(2)
        names = ("repeat-1", "repeat-2")
        for name in names:
            folder = ReferenceFolder(stored.folder / name)
            build_reference(stored.pool, hashes, stored.leaders, stored.model, SAMPLE, folder)
        first, second = (np.load(stored.folder / name / "bulk_image.npy") for name in names)
        np.testing.assert_array_equal(first, second)
        drawn = stored.vectors[Modality.IMAGE][:96].reshape(6, 8, 2, D).transpose(2, 1, 0, 3)
        np.testing.assert_allclose(first.reshape(2, 8, 6, D), drawn, atol=1e-3)


@pytest.mark.parametrize("modality", Modality)
def test_near_share_and_mass_match_a_naive_measurement(stored, stratified, modality):
    """The margin is the smallest for the mass, plus 2 nats, or the smallest for the neighbors."""
    folder, record = stratified
    near = record.near[modality]
    cells = NaiveCells.read(folder.path, modality, stored.hashes)
    held_out = np.argsort(stored.hashes)[-HELD_OUT:]
    logits = stored.logits(modality.other)
    np.fill_diagonal(logits, -np.inf)  # own counterparts
    mass = np.exp(logits[held_out] - logits[held_out].max(axis=1, keepdims=True))
    mass /= mass.sum(axis=1, keepdims=True)
    queries = stored.vectors[modality.other][held_out]

    def measured(margin):
        chosen = cells.near(queries, margin)
        share = (chosen @ cells.counts).mean() / N
        missed = np.where(chosen[:, cells.cell], 0, mass).sum(axis=1)
        return share, missed

    share, missed = measured(near.margin)
    assert near.share == pytest.approx(share, abs=1e-9)
    assert near.mass == pytest.approx(1 - missed.mean(), abs=1e-6)
    margins = range(2, 61)
    enough = next(m for m in margins if np.sqrt((measured(m)[1] ** 2).mean()) <= 0.002)
    asked = next(m for m in margins if measured(m)[0] * N >= record.neighbors)
    assert near.margin == max(enough + 2, asked)
    assert 40 <= near.share * N < N


def test_more_neighbors_widen_the_margin(stored, stratified):
    _, record = stratified
    config = EstimateConfig(ReferenceMethod.STRATIFIED, neighbors=400, bulk=100)
    _, wider = stored.reference(config, "wider")
    for modality in Modality:
        assert wider.near[modality].margin > record.near[modality].margin
        assert wider.near[modality].share * N >= 400


class TestAgain:
    def test_keeps_an_equal_reference(self, stored, monkeypatch):
        folder, record = stored.reference(STRATIFIED, "kept")
        before = modified(folder)
        inputs = stored.pool, stored.hashes, stored.leaders, stored.model
        again = build_reference(*inputs, STRATIFIED, folder)
        assert again == record
        assert modified(folder) == before

    @pytest.mark.parametrize("damage", ["{", '{"method": "exact"}', None])
    def test_replaces_a_damaged_or_unfinished_one(self, stored, damage):
        folder, record = stored.reference(SAMPLE, "damaged")
        path = folder.path / "reference.json"
        whole = path.read_bytes()
        path.unlink()
        if damage is not None:
            path.write_text(damage)
        (folder.path / "bulk_image.npy").write_bytes(b"half")
        assert stored.reference(SAMPLE, "damaged")[1] == record
        assert path.read_bytes() == whole
        assert len(np.load(folder.path / "bulk_image.npy")) == 96

    def test_other_inputs_make_another_reference(self, stored):
        hashes = stored.hashes.copy()
        hashes[0] += 1
        other = msgspec.structs.replace(stored.model, digest="other")
        changed = {
            "as before": (stored.hashes, stored.leaders, stored.model, SAMPLE),
            "hashes": (hashes, stored.leaders, stored.model, SAMPLE),
            "model": (stored.hashes, stored.leaders, other, SAMPLE),
            **{
                name: (stored.hashes, stored.leaders, stored.model, replace(SAMPLE, **changes))
                for name, changes in {
                    "bulk": {"bulk": 64},
                    "alike": {"alike": 0.9},
                    "own": {"own": Own.COUNTED},
                    "method": {"method": EXACT.method},
                }.items()
            },
        }
        folder = ReferenceFolder(stored.folder / "changing")
        digests = [
            build_reference(stored.pool, *inputs, folder).digest for inputs in changed.values()
        ]
        assert len(set(digests)) == len(changed)
        assert folder.record().method == "exact"
        assert build_reference(stored.pool, *changed["as before"], folder).digest == digests[0]


class TestChoice:
    @pytest.mark.parametrize(("limit", "method"), [(N, "exact"), (N - 1, "stratified")])
    def test_large_pools_are_stratified_by_default(self, stored, monkeypatch, limit, method):
        monkeypatch.setattr(module, "EXACT_UP_TO", limit)
        monkeypatch.setattr(module, "BREAK_EVEN", 1.0)
        config = EstimateConfig(neighbors=40, bulk=100)
        assert stored.reference(config, f"auto-{limit}")[1].method == method

    def test_pools_that_are_near_as_a_whole_are_exact(self, stored, monkeypatch):
        monkeypatch.setattr(module, "EXACT_UP_TO", N - 1)
        monkeypatch.setattr(module, "BREAK_EVEN", 0.0)
        config = EstimateConfig(neighbors=40, bulk=100)
        with pytest.warns(UserWarning, match="so exact takes no longer than stratified"):
            folder, record = stored.reference(config, "near")
        assert (record.method, record.bulk, record.folds, record.near) == ("exact", 0, 0, {})
        found = Estimator(folder, stored.model)
        expected = Estimator(stored.reference(EXACT, "exact-too")[0], stored.model)
        rows = [torch.from_numpy(vectors).float() for vectors in stored.vectors.values()]
        for name, values in found.estimates(*rows, stored.hashes, N).columns.items():
            wanted = expected.estimates(*rows, stored.hashes, N).columns[name]
            np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-5)
        # The same pool and settings find it again.
        assert stored.reference(config, "near")[1] == record

    def test_a_method_that_is_asked_for_is_kept(self, stored, monkeypatch):
        monkeypatch.setattr(module, "BREAK_EVEN", 0.0)
        assert stored.reference(STRATIFIED, "asked")[1].method == "stratified"

    def test_amounts_are_at_most_the_pool(self, stored):
        config = EstimateConfig(ReferenceMethod.STRATIFIED, neighbors=10**6, bulk=10**6)
        _, record = stored.reference(config, "large")
        halves = np.bincount((stored.hashes % np.uint64(2)).astype(int))
        assert (record.neighbors, record.bulk) == (N, 2 * halves.min() // 16 * 16)


@pytest.mark.parametrize("pairs", [0, 1])
def test_a_pool_without_counterparts_is_refused(tmp_path, pairs):
    images, texts = clustered_pool(seed=0, n=pairs, d=D, noise=0.5)
    small = store(tmp_path, images, texts, (pairs,))
    with pytest.raises(InputError, match=rf"the shards hold {pairs} usable pair") as caught:
        small.reference(EXACT, "one")
    assert "score more shards together" in caught.value.cure
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize(
    ("pairs", "bulk", "enough"),
    [(100, 31, False), (100, 32, True), (33, 99, False), (40, 99, True)],
)
@pytest.mark.parametrize("method", [ReferenceMethod.SAMPLE, ReferenceMethod.STRATIFIED])
def test_a_bulk_needs_two_members_per_fold(tmp_path, method, pairs, bulk, enough):
    images, texts = clustered_pool(seed=0, n=pairs, d=D, noise=0.5)
    small = store(tmp_path, images, texts, (pairs,))
    config = EstimateConfig(method, neighbors=5, bulk=bulk)
    if enough:
        assert small.reference(config, "s")[1].bulk == 32
        return
    with pytest.raises(InputError) as caught:
        small.reference(config, "s")
    problem = f"`bulk` {bulk} of {pairs} pairs is too small for 16 folds of two"
    assert caught.value.problem == problem
    assert caught.value.cure == "use `bulk` 32 or more, or `reference` exact"


def test_the_logit_scale_is_the_models(stored, tmp_path):
    folder = ReferenceFolder(tmp_path)
    model = model_of(D, scale=77.0)
    inputs = stored.pool, stored.hashes, stored.leaders, model
    assert build_reference(*inputs, EXACT, folder).logit_scale == 77


class TestGroups:
    def test_counts_and_sums_are_those_of_groups_of_several(self, tmp_path):
        images, texts = clustered_pool(seed=2, n=100, d=D, noise=0.5)
        leaders = np.arange(100)
        leaders[[3, 50, 51]], leaders[[7, 9]] = 3, 7
        stored = store(tmp_path, images, texts, (60, 40), leaders)
        folder, _ = stored.reference(EXACT, "groups")
        halves = (stored.hashes % np.uint64(2)).astype(int)
        counts = np.load(folder.path / "group_count.npy")
        members = [[3, 50, 51], [7, 9]]
        assert counts.tolist() == [np.bincount(halves[m], minlength=2).tolist() for m in members]
        row = {int(h): n for n, h in enumerate(stored.hashes)}
        for modality, vectors in stored.vectors.items():
            sums = np.load(folder.path / f"group_sum_{modality}.npy")
            np.testing.assert_allclose(sums, [vectors[m].sum(axis=0) for m in members], atol=1e-6)
            hashes = np.load(folder.path / f"pool_hash_{modality}.npy")
            groups = np.load(folder.path / f"pool_group_{modality}.npy")
            of_row = {row[int(h)]: int(g) for h, g in zip(hashes, groups, strict=True)}
            for n, own in enumerate(members):
                assert {of_row[m] for m in own} == {n}
            alone = [of_row[m] for m in range(100) if m not in {3, 50, 51, 7, 9}]
            assert len(set(alone)) == 95
            assert min(alone) >= 2

    def test_leaders_are_found_once(self, tmp_path, monkeypatch):
        images, texts = clustered_pool(seed=2, n=50, d=D, noise=0.5)
        images[30], texts[30] = images[4], texts[4]
        stored, folder = store(tmp_path, images, texts, (50,)), ReferenceFolder(tmp_path / "r")
        inputs = stored.pool, stored.hashes, stored.model
        cpu = InProcess("cpu")
        found = leaders_of(*inputs, 0.95, folder, cpu)
        assert len(set(found.tolist())) == 49
        assert found[30] == found[4]
        calls = []
        monkeypatch.setattr(module, "find_leaders", lambda *given: calls.append(given) or found)
        assert leaders_of(*inputs, 0.95, folder, cpu).tolist() == found.tolist()
        assert not calls
        leaders_of(*inputs, 0.9, folder, cpu)
        assert len(calls) == 1
