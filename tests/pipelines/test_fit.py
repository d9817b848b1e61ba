"""Passes over the pool that `fit` asks for, cluster by cluster; see also test_measure."""

import shutil
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest

from clipdre.core.modality import Modality
from clipdre.engines.local import local_engine
from clipdre.errors import ScoresError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import read_complete_manifest
from clipdre.pipelines import batches
from clipdre.pipelines.batches import Clusters
from clipdre.pipelines.fit import FitPool
from clipdre.pipelines.rows import PoolReader
from tests.scorers.measuring import stored_vectors

NUMBERS = np.random.default_rng(0).integers(7, size=300)
NUMBERS[NUMBERS == 3] = 5  # 3 is empty
NEAR = np.array([[1, 2], [0, 1], [6, 3], [1, 1], [0, 5], [5, 5], [2, 0]])


@pytest.fixture
def scores(scored, tmp_path):
    return shutil.copytree(scored[0], tmp_path / "scores")


def pool_of(scores, devices=("cpu",)):
    manifest = read_complete_manifest(scores)
    reader = PoolReader(ScoreFolder(scores), manifest, "cpu")
    return FitPool(reader, local_engine(devices), {"scorer": "test"}, scores / "fit")


def described(cluster):
    """Sums that tell which rows a cluster was given, and in what order."""
    around = cluster.around.vectors(Modality.TEXT)
    return {
        "number": np.full(len(cluster), cluster.number),
        "first": cluster.vectors(Modality.IMAGE)[:, 0].numpy(),
        "around": np.full(len(cluster), float(around[:, 1].sum())),
        "own": around[cluster.own, 2].numpy(),
        "some": cluster.vectors(Modality.IMAGE, np.arange(len(cluster))[::-1])[:, 3].numpy(),
        "hash": cluster.hashes,
    }


def check(scores, found):
    images, texts = (stored_vectors(scores, modality) for modality in Modality)
    assert found["number"].tolist() == NUMBERS.tolist()
    np.testing.assert_allclose(found["first"], images[:, 0], atol=1e-6)
    np.testing.assert_allclose(found["own"], texts[:, 2], atol=1e-6)
    for number in set(NUMBERS):
        is_near = np.isin(NUMBERS, [number, *NEAR[number]])
        of_cluster = number == NUMBERS
        np.testing.assert_allclose(found["around"][of_cluster], texts[is_near, 1].sum(), atol=1e-4)
        backwards = images[of_cluster, 3][::-1]
        np.testing.assert_allclose(found["some"][of_cluster], backwards, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 100, 10**6])
def test_clusters_are_given_their_rows_and_those_around(scores, monkeypatch, rows):
    monkeypatch.setattr(batches, "BATCH_ROWS", rows)
    pool = pool_of(scores)
    found = pool.by_cluster("step", NUMBERS, described, NEAR)
    check(scores, found)
    assert found["hash"].tolist() == pool.reader.all_hashes.tolist()
    assert len(list((scores / "fit" / "step").iterdir())) == {1: 6, 100: 6, 10**6: 1}[rows]


def test_without_neighbours_only_the_own_rows_are_around(scores):
    found = pool_of(scores).by_cluster("step", NUMBERS, described)
    texts = stored_vectors(scores, Modality.TEXT)
    for number in set(NUMBERS):
        own = number == NUMBERS
        np.testing.assert_allclose(found["around"][own], texts[own, 1].sum(), atol=1e-4)


def test_two_devices_find_what_one_finds(scores, monkeypatch):
    monkeypatch.setattr(batches, "BATCH_ROWS", 100)
    check(scores, pool_of(scores, ("cpu", "cpu")).by_cluster("step", NUMBERS, described, NEAR))


@dataclass
class Stopping:
    """Stops before the third cluster, and counts those it has seen."""

    left: int
    seen: int = 0

    def __call__(self, cluster):
        if not self.left:
            raise RuntimeError("no more")
        self.left -= 1
        self.seen += 1
        return described(cluster)


def test_a_stopped_pass_resumes_batch_by_batch(scores, monkeypatch):
    monkeypatch.setattr(batches, "BATCH_ROWS", 1)
    with pytest.raises(RuntimeError, match="no more"):
        pool_of(scores).by_cluster("step", NUMBERS, Stopping(2), NEAR)
    rest = Stopping(10)
    check(scores, pool_of(scores).by_cluster("step", NUMBERS, rest, NEAR))
    assert rest.seen == 4
    again = Stopping(10)
    pool_of(scores).by_cluster("step", NUMBERS, again, NEAR)
    assert again.seen == 0
    pool_of(scores).by_cluster("step", NUMBERS[::-1], again, NEAR)
    assert again.seen == 6  # other clusters are another pass


def test_batches_hold_rows_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(batches, "BATCH_ROWS", 100)
    sizes = np.array([10, 60, 0, 30, 250, 1, 99, 1])
    of_rows = np.repeat(np.arange(8), sizes)
    found = Clusters.of(of_rows, None).batches()
    assert found == [[0, 1, 3], [4], [5, 6], [7]]


def number_of(rows):
    return {"start": np.full(len(rows), rows.start), "hash": rows.hashes}


def test_collected_values_are_in_the_order_of_the_pool(scores):
    pool = pool_of(scores)
    found = pool.collect("step", number_of)
    assert found["start"].tolist() == [0] * 100 + [100] * 100 + [200] * 100
    assert found["hash"].tolist() == pool.reader.all_hashes.tolist()


def test_centroids_are_trained_once(scores, monkeypatch):
    from clipdre.clusters import spherical

    first = pool_of(scores).centroids((Modality.IMAGE,), 5, seed=1)
    monkeypatch.setattr(spherical, "spherical_kmeans", None)
    assert pool_of(scores).centroids((Modality.IMAGE,), 5, seed=1).tolist() == first.tolist()
    with pytest.raises(TypeError):
        pool_of(scores).centroids((Modality.TEXT,), 5, seed=1)


def test_cosines_have_no_logits_where_inner_products_do(scores):
    pool = pool_of(scores)
    model = pool.reader.manifest.model
    assert pool.logit_scale == model.logit_scale > 1
    manifest = msgspec.structs.replace(
        pool.reader.manifest, model=msgspec.structs.replace(model, inner_product=True)
    )
    pool.reader = PoolReader(pool.reader.folder, manifest, "cpu")
    with pytest.raises(ScoresError, match="cosines have no logits"):
        _ = pool.logit_scale
