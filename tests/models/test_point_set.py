"""A model with a point-set head, trained for a few steps, saved, loaded and scored."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clipdre.config import EncodeConfig
from clipdre.core.point_set import point_sets, similarity
from clipdre.core.scores import INNER_PRODUCT
from clipdre.errors import ModelError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.models.load import load_encoder
from clipdre.models.point_set import FILE, PointSetHead
from clipdre.pipelines.score import ScoreConfig, score
from clipdre.sql.query import ScoreQuery
from clipdre.truth.pool import write_pool
from tests.core import oracle
from tests.helpers import read_scores

SCRIPTS = Path(__file__).parents[2] / "scripts"
POINTS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint folder after three steps of training."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        script = importlib.import_module("train_tiny")
    finally:
        sys.path.remove(str(SCRIPTS))
    place = tmp_path_factory.mktemp("trained") / "model"
    sizes = {"pairs": 64, "steps": 3, "batch_size": 16, "device": "cpu"}
    script.main(place, script.Head.POINT_SET, learning_rate=2e-3, seed=0, **sizes)
    return place


@pytest.fixture(scope="module")
def scored(folder, tmp_path_factory):
    """Scores of a clean pool by that model."""
    place = tmp_path_factory.mktemp("scored")
    write_pool(place / "pool", 60, 0, noise={}, shard_size=30)
    config = ScoreConfig(encode=EncodeConfig(f"local-dir:{folder}", None, workers=1))
    urls = sorted(map(str, (place / "pool").glob("*.tar")))
    return place / "scores", score(urls, place / "scores", config), config, urls


def encode(encoder, n=6):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    captions = [
        encoder.tokenize(f"a {word} circle") for word in ("red", "blue", "green") * (n // 3)
    ]
    return encoder.encode_images(list(pixels)), encoder.encode_texts(captions), pixels, captions


def test_vectors_give_the_similarity_that_was_trained(folder):
    encoder = load_encoder(EncodeConfig(f"local-dir:{folder}", None))
    images, texts, pixels, captions = encode(encoder)
    with torch.inference_mode():
        features = [
            encoder.model.encode_image(encoder.scaling(pixels)),
            encoder.model.encode_text(torch.stack(captions)),
        ]
    exact = similarity(*(point_sets(part, POINTS) for part in features))
    assert encoder.record.inner_product
    assert encoder.record.embedding_dim == images.shape[1] == 15 + 2 * 1024
    np.testing.assert_allclose(images @ texts.T, exact, atol=0.01)
    assert float(exact.std()) > 0.02


def test_scores_are_those_of_inner_products(scored):
    folder, manifest, _, _ = scored
    table = read_scores(folder, manifest)
    images, texts = (
        np.concatenate([np.load(p) for p in sorted((folder / "embeddings" / f"{m}_emb").iterdir())])
        for m in ("img", "text")
    )
    assert images.dtype == np.float32
    expected = (images.astype(np.float64) * texts).sum(axis=1)
    np.testing.assert_allclose(table["similarity"], expected, atol=1e-5)
    found = oracle.scores(
        images.astype(np.float64), texts.astype(np.float64), manifest.model.logit_scale
    )
    assert manifest.model.inner_product
    assert manifest.reference.inner_product
    np.testing.assert_allclose(table["dc_image"], found["dc_image"], rtol=1e-4, atol=1e-4)
    described = ScoreQuery(ScoreFolder(folder), manifest).described()
    assert INNER_PRODUCT in described


def test_a_run_of_the_same_model_resumes(scored):
    folder, manifest, config, urls = scored
    assert score(urls, folder, config) == manifest


def test_another_head_of_the_same_weights_is_another_model(folder, tmp_path):
    before = load_encoder(EncodeConfig(f"local-dir:{folder}", None)).record
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / FILE).write_bytes(PointSetHead(points=POINTS, seed=1).encoded())
    after = load_encoder(EncodeConfig(f"local-dir:{tmp_path}", None)).record
    assert after.digest != before.digest
    assert after.fingerprint != before.fingerprint


def test_unit_vectors_for_what_compares_cosines(folder):
    encoder = load_encoder(EncodeConfig(f"local-dir:{folder}", None))
    lengths = encode(encoder)[0].norm(dim=1)
    assert float((lengths - 1).abs().max()) > 0.1
    for vectors in encode(encoder.of_directions())[:2]:
        np.testing.assert_allclose(vectors.norm(dim=1), 1, rtol=1e-5)
    plain = load_encoder(EncodeConfig("clipdre-tiny", None))
    assert plain.of_directions() is plain


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "damaged"),
        ('{"points": 0}', "damaged"),
        ('{"points": 8, "width": 1}', "damaged"),
        ('{"points": 8, "seed": -9223372036854775809}', "damaged"),
        ('{"points": 8, "seed": 99999999999999999999999}', "damaged"),
        ('{"points": 7}', "not 7 points"),
        ('{"points": 128}', "not 128 points"),
    ],
)
def test_a_damaged_head_is_refused(folder, tmp_path, text, problem):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ModelError, match=problem):
        load_encoder(replace(EncodeConfig(), model=f"local-dir:{tmp_path}", pretrained=None))
