"""A good pair that occurs several times is kept, once."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from clipdre.config import EstimateConfig
from clipdre.core.ranks import ranks_in_groups
from clipdre.engines.local import InProcess
from clipdre.estimating.estimate import Estimator, estimate_rows
from clipdre.estimating.reference import build_reference, leaders_of
from clipdre.formats.folders.reference import ReferenceFolder
from clipdre.truth.embeddings import EmbeddingWorld
from tests.estimating.stored import model_of, store
from tests.estimating.test_alike import beside

PAIRS, D, PLANTED, SHARE = 1200, 128, 34, 0.3


@pytest.fixture(scope="module")
def pool():
    """Draw a pool in which a third of the captions belong to another image."""
    rng = np.random.default_rng(5)
    images, texts = EmbeddingWorld(D, noise=0.6).draw(PAIRS, rng)
    texts[: PAIRS // 3] = np.roll(texts[: PAIRS // 3], 1, axis=0)
    return images.astype(float), texts.astype(float)


def scored(folder, images, texts):
    """Ratio and rank in its group of each pair."""
    stored = store(folder, images, texts, (len(images),))
    model, reference = model_of(D, scale=100.0), ReferenceFolder(folder / "reference")
    config = EstimateConfig()
    leaders = leaders_of(
        stored.pool, stored.hashes, model, config.alike, reference, InProcess("cpu")
    )
    build = stored.pool, stored.hashes, leaders, model
    build_reference(*build, config, reference)
    estimator = Estimator(reference, model)
    ratio = estimate_rows(stored.pool, stored.hashes, estimator, 0, len(images)).columns[
        "log_ratio"
    ]
    return ratio, ranks_in_groups(leaders, ratio, stored.hashes)


@pytest.fixture(scope="module")
def clean(pool, tmp_path_factory):
    return scored(tmp_path_factory.mktemp("clean"), *pool)


@pytest.mark.parametrize("cosine", [1.0, 0.98])
@pytest.mark.parametrize("copies", [2, 3, 10])
def test_planted_copies_are_kept_once(pool, clean, tmp_path, copies, cosine):
    before, alone = clean
    assert (alone == 1).all()
    rng = np.random.default_rng(6)
    best = np.argsort(-before)[: round(SHARE * PAIRS)]
    items = rng.choice(best, PLANTED, replace=False)
    images, texts = (
        np.concatenate([v, beside(rng, v[np.repeat(items, copies - 1)], cosine)]) for v in pool
    )
    ratio, ranks = scored(tmp_path, images, texts)
    item = np.concatenate([np.arange(PAIRS), np.repeat(items, copies - 1)])
    distinct = np.flatnonzero(ranks == 1)
    kept = distinct[np.argsort(-ratio[distinct])][: round(SHARE * len(distinct))]
    times = np.bincount(item[kept], minlength=PAIRS)[items]
    assert (times == 1).sum() >= 30
    undisturbed = np.setdiff1d(np.arange(PAIRS), items)
    assert spearmanr(ratio[undisturbed], before[undisturbed])[0] >= 0.99
