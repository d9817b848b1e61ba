import numpy as np
import pytest

from clipdre.core.modality import Modality
from clipdre.errors import ScoresError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.looking import counterparts
from clipdre.looking.counterparts import NEAREST, Model
from clipdre.sql.query import ScoreQuery
from tests.helpers import read_scores


@pytest.fixture
def model(scored):
    folder, manifest = scored
    return Model(ScoreQuery(ScoreFolder(folder), manifest))


def logits_of(scored):
    """Logits of all images with all captions, naively."""
    folder, manifest = scored
    images, texts = (
        np.concatenate(
            [
                np.load(path).astype(np.float64)
                for path in sorted((folder / "embeddings").rglob(f"{name}_emb_*.npy"))
            ]
        )
        for name in ("img", "text")
    )
    images, texts = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (images, texts))
    return manifest.model.logit_scale * images @ texts.T + manifest.model.logit_bias


def test_nearest_are_the_likeliest_other_rows(scored, model, monkeypatch):
    monkeypatch.setattr(counterparts, "TILE", 64)
    places = np.array([0, 63, 64, 299])
    table = read_scores(*scored)
    for modality, logits in (
        (Modality.IMAGE, logits_of(scored)),
        (Modality.TEXT, logits_of(scored).T),
    ):
        found = model.nearest(places, modality)
        for n, place in enumerate(places):
            row = logits[place].copy()
            row[place] = -np.inf
            best = np.sort(row)[::-1][:NEAREST]
            partition = table[f"log_partition_{modality}"][int(place)].as_py()
            assert found.log_ratios[n] == pytest.approx(best - partition, abs=2e-3)
            assert place not in found.places[n]
            assert row[found.places[n]] == pytest.approx(best, abs=2e-3)


def test_the_matrix_has_the_pairs_own_log_ratios_on_its_diagonal(scored, model):
    places = np.array([3, 150, 290])
    found = model.log_ratios(places)
    table = read_scores(*scored)
    own = [table["log_ratio"][int(place)].as_py() for place in places]
    assert np.diag(found) == pytest.approx(own, abs=2e-3)
    image, text = (table[f"log_partition_{m}"].to_numpy()[places] for m in Modality)
    naive = logits_of(scored)[np.ix_(places, places)] - (image[:, None] + text[None, :]) / 2
    assert found == pytest.approx(naive, abs=2e-3)


def test_of_a_large_pool_evenly_spaced_runs_are_searched(model, monkeypatch):
    assert model.searched == 300
    monkeypatch.setattr(counterparts, "TILE", 10)
    monkeypatch.setattr(counterparts, "SEARCHED", 100)
    assert model.searched == 100
    found = model.nearest(np.array([5, 250]), Modality.IMAGE)
    assert set(found.places.ravel() // 10 % 3) == {0}


def test_without_embeddings_there_are_no_counterparts(scored, tmp_path):
    folder, manifest = scored
    query = ScoreQuery(ScoreFolder(folder), manifest)
    query.folder = ScoreFolder(tmp_path)
    with pytest.raises(ScoresError, match="keeps no embeddings"):
        Model(query)
