import dataclasses

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipdre.config import TINY_MODEL, EncodeConfig, Precision
from clipdre.errors import ModelError
from clipdre.models.load import load_encoder, weights_digest

TINY = EncodeConfig(model=TINY_MODEL, device="cpu")
SMALL = "RN50"  # any registry model whose random weights are quickly made


@pytest.fixture(scope="module")
def tiny():
    return load_encoder(TINY)


def pixels(encoder, n=3):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(n)]
    return [encoder.preprocess(image) for image in images]


def texts_of(encoder, *captions):
    return encoder.encode_texts([encoder.tokenize(caption) for caption in captions])


def test_the_embedded_model_gives_unit_vectors_with_its_own_scale(tiny):
    images, texts = tiny.encode_images(pixels(tiny)), texts_of(tiny, "red circle", "thing")
    assert images.shape == (3, tiny.record.embedding_dim)
    assert texts.shape == (2, tiny.record.embedding_dim)
    for vectors in (images, texts):
        assert vectors.dtype == torch.float32
        assert (vectors.norm(dim=1) - 1).abs().max() < 1e-5
    assert tiny.record.logit_scale == pytest.approx(tiny.model.logit_scale.exp().item())
    assert tiny.record.logit_bias == 0


def test_the_embedded_model_knows_what_it_sees(tiny):
    red = Image.new("RGB", (64, 64), "white")
    red.paste((220, 30, 35), (10, 10, 30, 30))
    image = tiny.encode_images([tiny.preprocess(red)])
    right, wrong = texts_of(tiny, "red square on white", "blue star on black")
    assert image @ right > image @ wrong


def test_a_batch_gives_what_its_rows_give(tiny):
    batch = pixels(tiny, 5)
    alone = torch.cat([tiny.encode_images([row]) for row in batch])
    torch.testing.assert_close(tiny.encode_images(batch), alone, atol=1e-5, rtol=0)


def test_half_precision_is_close(tiny):
    half = load_encoder(dataclasses.replace(TINY, precision=Precision.BF16))
    assert half.record.precision == "bf16"
    assert half.record.digest == tiny.record.digest
    batch = pixels(tiny)
    cosines = (half.encode_images(batch) * tiny.encode_images(batch)).sum(1)
    assert cosines.min() > 0.99


def test_a_checkpoint_file_is_loaded_as_open_clip_would(tmp_path):
    torch.manual_seed(0)
    model = open_clip.create_model(SMALL)
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    encoder = load_encoder(EncodeConfig(model=SMALL, pretrained=str(path), device="cpu"))
    assert encoder.record.digest == weights_digest(model)
    assert encoder.record.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)
    model.eval()
    batch = pixels(encoder, 1)
    assert batch[0].shape == (3, 224, 224)
    with torch.inference_mode():
        expected = model.encode_image(encoder.scaling(torch.stack(batch)), normalize=True)
    torch.testing.assert_close(encoder.encode_images(batch), expected, atol=1e-5, rtol=0)


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    flag = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (open, (str(flag), "w"))

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ModelError, match="cannot load model"):
        load_encoder(EncodeConfig(model=SMALL, pretrained=str(tmp_path / "trap.pt"), device="cpu"))
    assert not flag.exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EncodeConfig(model="ViT-B-33"), "unknown model ViT-B-33: did you mean ViT-B-32"),
        (EncodeConfig(model="ViT-B-32", pretrained=None), "needs weights: give --pretrained"),
        (EncodeConfig(model="ViT-B-32", pretrained="nosuchtag"), "no pretrained tag nosuchtag"),
        (EncodeConfig(model="ViT-B-32", pretrained="a/b.pt"), "no checkpoint a/b.pt"),
        (EncodeConfig(model="local-dir:/nowhere", pretrained=None), "cannot load model"),
        (dataclasses.replace(TINY, device="nosuch"), "--device nosuch cannot be used"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_with_the_cure(config, message):
    with pytest.raises(ModelError, match=message) as caught:
        load_encoder(config)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused(tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match="check that the checkpoint is of this model"):
        load_encoder(EncodeConfig(model=SMALL, pretrained=str(path), device="cpu"))


def test_a_model_without_logit_scale_is_refused(monkeypatch):
    original = open_clip.create_model_and_transforms

    def without(*args, **kwargs):
        model, train, val = original(*args, **kwargs)
        model.logit_scale = None
        return model, train, val

    monkeypatch.setattr(open_clip, "create_model_and_transforms", without)
    with pytest.raises(ModelError, match="has no logit scale"):
        load_encoder(TINY)
