import numpy as np
import pyarrow.parquet as pq
import pytest

from clipdre.core.modality import Modality
from clipdre.errors import UsageError
from clipdre.estimating import alike
from clipdre.formats.folders.manifest import read_complete_manifest
from clipdre.scorers.image_duplicates import ImageDuplicates
from tests.core.oracle import unit_rows
from tests.scorers.measuring import measured, store_vectors, stored_vectors


def column_of(scores, name):
    shards = [shard.name for shard in read_complete_manifest(scores).shards]
    files = [pq.read_table(scores / "scores" / f"{shard}.parquet") for shard in shards]
    return np.concatenate([file[name].to_numpy() for file in files])


def naive_groups(vectors, hashes, threshold):
    """Follow each row to the row of smallest hash that it is alike to, and on from there."""
    is_alike = vectors @ vectors.T > threshold
    np.fill_diagonal(is_alike, True)

    def lead(row):
        best = min(np.flatnonzero(is_alike[row]), key=lambda other: hashes[other])
        return row if best == row else lead(best)

    return hashes[[lead(row) for row in range(len(vectors))]]


# Many cells may miss an image that is barely alike, so they get groups that are clear.
@pytest.mark.parametrize(("threshold", "one_cell"), [(0.9, True), (0.98, True), (0.9, False)])
def test_groups_are_those_of_the_definition(scores, monkeypatch, threshold, one_cell):
    if not one_cell:
        monkeypatch.setattr(alike, "ONE_CELL_UP_TO", 50)
    rng = np.random.default_rng(5)
    origin = np.minimum(rng.integers(200, size=300), 150)  # one group is large
    images = unit_rows(rng, 200, 64)[origin] + 0.02 * rng.normal(size=(300, 64))
    store_vectors(scores, images, unit_rows(rng, 300, 64))
    found, record = measured(scores, ImageDuplicates(threshold))
    hashes, ratios = column_of(scores, "key_hash"), column_of(scores, "log_ratio")
    expected = naive_groups(stored_vectors(scores, Modality.IMAGE), hashes, threshold)
    assert found["image_group"].tolist() == expected.tolist()
    assert record.figures["image_groups"] == len(set(expected))
    sizes = np.array([(expected == group).sum() for group in expected])
    assert record.figures["images_grouped"] == (sizes > 1).sum() > 0
    for group in set(expected):
        rows = np.flatnonzero(expected == group)
        best_first = rows[np.argsort(-ratios[rows], kind="stable")]
        assert found["image_rank"][best_first].tolist() == list(range(1, len(rows) + 1))


def test_other_scores_are_ranked_anew(scores):
    """Columns made from scores are stale once the scores are others."""
    store_vectors(scores, np.ones((300, 8)), np.ones((300, 8)))
    before, old = measured(scores, ImageDuplicates())
    for file in sorted((scores / "scores").glob("*.parquet")):
        table = pq.read_table(file)
        place = table.column_names.index("log_ratio")
        opposite = np.negative(table["log_ratio"].to_numpy())
        changed = table.set_column(place, "log_ratio", [opposite])
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), file)
    after, new = measured(scores, ImageDuplicates())
    assert old.stamp != new.stamp
    assert before["image_rank"][after["image_rank"] == 1] == 300


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.1])
def test_a_threshold_is_a_cosine(scores, threshold):
    with pytest.raises(UsageError, match=r"`threshold` .* is not a cosine"):
        measured(scores, ImageDuplicates(threshold))
