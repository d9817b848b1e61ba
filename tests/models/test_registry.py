"""End-to-end runs of open_clip's model families with random weights, from checkpoint to scores.

`scripts/check_registry.py` covers every architecture whose tokenizer needs no download.
"""

import json
import math

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clipdre.config import EncodeConfig, EstimateConfig
from clipdre.core.scores import SCORE_COLUMNS
from clipdre.pipelines.score import ScoreConfig
from tests.helpers import pair, png, read_scores, tiny_score, write_tar

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:timm", "ignore::FutureWarning")

FAMILIES = ["ViT-S-32", "RN50", "coca_ViT-B-32", "MobileCLIP2-S0", "PE-Core-T-16-384", "ViTamin-S"]
CAPTIONS = [f"caption {n} " + "word " * (5 * n) for n in range(4)]
SIGLIP = {
    "model_cfg": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "init_logit_scale": math.log(10),
        "custom_text": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 64,
            "heads": 2,
            "layers": 2,
            "no_causal_mask": True,
            "pool_type": "last",
            "proj_bias": True,
        },
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}


@pytest.fixture
def shards(tmp_path):
    members = [
        m
        for n, caption in enumerate(CAPTIONS)
        for m in [(f"{n}.png", png(n, (50 + 9 * n, 40))), *pair(str(n), caption, seed=n)[1:]]
    ]
    write_tar(tmp_path / "pool.tar", members)
    return tmp_path


def expected_similarity(model, transform, tokenizer):
    """Cosines of the same pairs by open_clip alone."""
    model.eval()
    rng_images = [
        Image.fromarray(
            np.random.default_rng(n).integers(0, 256, (40, 50 + 9 * n, 3), dtype=np.uint8)
        )
        for n in range(len(CAPTIONS))
    ]
    with torch.inference_mode():
        images = model.encode_image(torch.stack([transform(i) for i in rng_images]), normalize=True)
        texts = model.encode_text(tokenizer(CAPTIONS), normalize=True)
    return (images * texts).sum(dim=1).numpy()


def scoring(encode, **estimate):
    """With random weights, all images, and all captions, may have almost the same vector."""
    return ScoreConfig(encode=encode, estimate=EstimateConfig(alike=1.0, **estimate))


def check(shards, config, model, transform, tokenizer):
    manifest = tiny_score(shards, shards / "s", scoring(config))
    table = read_scores(shards / "s", manifest)
    assert len(table) == len(CAPTIONS)
    assert all(np.isfinite(table[name]).all() for name in SCORE_COLUMNS)
    expected = expected_similarity(model, transform, tokenizer)
    np.testing.assert_allclose(table["similarity"], expected, atol=2e-3)
    return manifest


@pytest.mark.parametrize("name", FAMILIES)
def test_family_scores_as_open_clip_does(shards, name):
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms(name, pretrained_text=False)
    torch.save(model.state_dict(), shards / "weights.pt")
    config = EncodeConfig(name, str(shards / "weights.pt"), "cpu", batch_size=4, workers=1)
    manifest = check(shards, config, model, transform, open_clip.get_tokenizer(name))
    assert manifest.model.logit_scale == pytest.approx(model.logit_scale.detach().exp().item())
    assert manifest.model.preprocessing["size"] == _size(model.visual.image_size)


def _size(size):
    return list(size) if isinstance(size, tuple) else size


def test_siglip_uses_its_bias_and_preprocessing(shards):
    folder = shards / "siglip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(SIGLIP))
    name = f"local-dir:{folder}"
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms(name, load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = EncodeConfig(name, None, "cpu", batch_size=4, workers=1)
    full = scoring(config, tau=7)
    manifest = tiny_score(shards, shards / "s", full)
    table = read_scores(shards / "s", manifest)
    expected = expected_similarity(model, transform, open_clip.get_tokenizer(name))
    np.testing.assert_allclose(table["similarity"], expected, atol=2e-3)
    assert manifest.model.logit_bias == pytest.approx(-10)
    assert manifest.model.logit_scale == pytest.approx(10, rel=1e-5)
    assert manifest.model.preprocessing["resize_mode"] == "squash"
    logits = 10 * table["similarity"].to_numpy() - 10
    np.testing.assert_allclose(table["log_ratio_tau"], logits + np.log(7), atol=1e-4)
    ratio = logits - table["log_partition_image"].to_numpy()
    np.testing.assert_allclose(table["log_ratio_image"], ratio, atol=1e-4)
