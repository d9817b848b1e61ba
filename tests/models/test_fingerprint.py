import json
import shutil
from importlib import resources

import pytest

from clipdre.config import EncodeConfig
from clipdre.formats.folders.records import same_fingerprint
from clipdre.models.load import load_encoder


@pytest.fixture
def model(tmp_path):
    """The embedded model as a folder whose configuration can be changed."""
    shutil.copytree(resources.files("clipdre") / "tiny", tmp_path / "model")
    return tmp_path / "model"


def record_of(folder, **precision):
    return load_encoder(EncodeConfig(f"local-dir:{folder}", device="cpu", **precision)).record


def change(folder, section, **settings):
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    part = config
    for name in section:
        part = part[name]
    part.update(settings)
    path.write_text(json.dumps(config))


def test_a_model_has_the_same_fingerprint_each_time(model):
    first, again = record_of(model), record_of(model)
    assert first.fingerprint == again.fingerprint
    assert len(first.fingerprint) == 7 * 6 / 2
    assert first.redefined(again) is None


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        (["model_cfg"], {"quick_gelu": True}),
        (["model_cfg", "text_cfg"], {"pool_type": "last"}),
        (["model_cfg", "text_cfg"], {"no_causal_mask": True}),
        (["model_cfg", "text_cfg", "tokenizer_kwargs"], {"clean": "canonicalize"}),
        (["model_cfg", "vision_cfg"], {"pool_type": "avg"}),
        (["preprocess_cfg"], {"interpolation": "bilinear"}),
        (["preprocess_cfg"], {"resize_mode": "squash"}),
        (["preprocess_cfg"], {"mean": [0.45, 0.45, 0.45]}),
    ],
)
def test_another_definition_of_the_same_weights_has_another(model, section, settings):
    change(model, ["model_cfg", "text_cfg"], tokenizer_kwargs={})
    before = record_of(model)
    change(model, section, **settings)
    now = record_of(model)
    assert before.digest == now.digest
    assert not same_fingerprint(before.fingerprint, now.fingerprint)
    assert before.redefined(now)


def test_rounding_is_forgiven_and_more_is_not():
    assert same_fingerprint((0.5, 0.25), (0.50001, 0.24999))
    assert not same_fingerprint((0.5, 0.25), (0.5, 0.2505))
    assert not same_fingerprint((0.5, 0.25), (0.5,))
    assert same_fingerprint((), (0.5,))
