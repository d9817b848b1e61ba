import dataclasses
import logging
import sys
import threading
import warnings

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from PIL import Image
from safetensors.torch import save_file

from clipdre.config import TINY_MODEL, EncodeConfig, Precision
from clipdre.errors import ModelError
from clipdre.formats.folders.records import same_fingerprint
from clipdre.models import load
from clipdre.models.checks import OPENAI_KEYS, check_checkpoint, needs_quick_gelu
from clipdre.models.load import load_encoder, usable_device, usable_devices, weights_digest

TINY = EncodeConfig(model=TINY_MODEL, device="cpu")
SMALL = "RN50"  # any model of the registry that is fast to initialize


@pytest.fixture(scope="module")
def tiny():
    return load_encoder(TINY)


def pixels(encoder, n=3):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(n)]
    return [encoder.preprocess(image) for image in images]


def texts_of(encoder, *captions):
    return encoder.encode_texts([encoder.tokenize(caption) for caption in captions])


def test_embedded_model_gives_unit_vectors_and_its_own_scale(tiny):
    images, texts = tiny.encode_images(pixels(tiny)), texts_of(tiny, "red circle", "thing")
    assert images.shape == (3, tiny.record.embedding_dim)
    assert texts.shape == (2, tiny.record.embedding_dim)
    for vectors in (images, texts):
        assert vectors.dtype == torch.float32
        assert (vectors.norm(dim=1) - 1).abs().max() < 1e-5
    assert tiny.record.logit_scale == pytest.approx(tiny.model.logit_scale.exp().item())
    assert tiny.record.logit_bias == 0
    assert tiny.record.precision == "fp32"


def test_embedded_model_prefers_the_right_caption(tiny):
    red = Image.new("RGB", (64, 64), "white")
    red.paste((220, 30, 35), (10, 10, 30, 30))
    image = tiny.encode_images([tiny.preprocess(red)])
    right, wrong = texts_of(tiny, "red square on white", "blue star on black")
    assert image @ right > image @ wrong


def test_batch_gives_the_same_vectors_as_single_images(tiny):
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


def test_checkpoint_file_loads_as_in_open_clip(tmp_path):
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


def test_code_in_a_pickle_does_not_run(tmp_path):
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
        (EncodeConfig(model="vit-b/32"), "unknown model vit-b-32: did you mean ViT-B-32"),
        (
            EncodeConfig(model="ViT-B/32", pretrained="laion2b_s34b_b79"),
            "no pretrained tag laion2b_s34b_b79 for model ViT-B-32: did you mean laion2b_s34b_b79k",
        ),
        (EncodeConfig(model="ViT-B/32", pretrained=None), "a tag such as openai"),
        (EncodeConfig(model="ViT-B-32", pretrained=None), "needs weights: set `pretrained` to"),
        (EncodeConfig(model="ViT-B-32", pretrained="nosuchtag"), "no pretrained tag nosuchtag"),
        (EncodeConfig(model="ViT-B-32", pretrained="a/b.pt"), "no checkpoint a/b.pt"),
        (
            EncodeConfig(model="clipdre-tiny", pretrained="openai"),
            "model clipdre-tiny has its own weights: drop `pretrained`",
        ),
        (EncodeConfig(model="clipdre-tinny"), "did you mean clipdre-tiny"),
        (EncodeConfig(model="local-dir:/nowhere", pretrained=None), "cannot load model"),
        (
            dataclasses.replace(TINY, device="nosuch"),
            "`device` nosuch cannot be used .no such kind.: use `device` auto, cpu",
        ),
    ],
)
def test_error_is_one_line_with_a_cure(config, message):
    with pytest.raises(ModelError, match=message) as caught:
        load_encoder(config)
    assert "\n" not in str(caught.value)
    assert caught.value.cure


def test_rejects_weights_of_another_model(tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match="check that the checkpoint belongs to this model"):
        load_encoder(EncodeConfig(model=SMALL, pretrained=str(path), device="cpu"))


def test_rejects_a_model_without_logit_scale(monkeypatch):
    original = open_clip.create_model_and_transforms

    def without(*args, **kwargs):
        model, train, val = original(*args, **kwargs)
        model.logit_scale = None
        return model, train, val

    monkeypatch.setattr(open_clip, "create_model_and_transforms", without)
    with pytest.raises(ModelError, match=r"has no logit scale, .*: choose a contrastive model"):
        load_encoder(TINY)


@pytest.mark.parametrize(
    ("name", "gpus", "expected"),
    [
        ("auto", 0, ["cpu"]),
        ("auto", 2, ["cuda:0", "cuda:1"]),
        ("cuda", 2, ["cuda:0", "cuda:1"]),
        ("cpu", 2, ["cpu"]),
        ("cuda:2, cuda:0", 3, ["cuda:2", "cuda:0"]),
    ],
)
def test_usable_devices(monkeypatch, name, gpus, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(load, "_reason_unusable", lambda device: None)
    assert usable_devices(name) == expected
    assert usable_device(name) == torch.device(expected[0])


@pytest.mark.parametrize(
    ("device", "has_amx", "asked", "expected"),
    [
        ("cpu", False, Precision.AUTO, Precision.FP32),
        ("cpu", True, Precision.AUTO, Precision.BF16),
        ("cpu", True, Precision.FP32, Precision.FP32),
        ("cuda:0", True, Precision.AUTO, Precision.FP16),
        ("mps", True, Precision.AUTO, Precision.FP32),
    ],
)
def test_auto_precision_is_what_pays_on_the_device(monkeypatch, device, has_amx, asked, expected):
    monkeypatch.setattr(load, "_cpu_capabilities", lambda: {"amx_bf16": has_amx})
    assert load._resolved_precision(asked, torch.device(device)) is expected


def test_rejects_a_list_with_one_unusable_device():
    with pytest.raises(ModelError, match="`device` nosuch cannot be used"):
        usable_devices("cpu,nosuch")


class TestQuickGelu:
    """Weights that were trained with QuickGELU are computed with it."""

    def test_tags_of_openai_get_it_and_others_do_not(self):
        assert needs_quick_gelu("ViT-L-14", "openai")
        assert needs_quick_gelu("ViT-L/14", "openai")
        assert not needs_quick_gelu("ViT-L-14-quickgelu", "openai")
        assert not needs_quick_gelu("ViT-L-14", "laion2b_s32b_b82k")
        assert not needs_quick_gelu("ViT-L-14", "weights.pt")
        assert not needs_quick_gelu("local-dir:model", None)

    def test_no_tag_of_the_registry_runs_gelu_on_its_weights(self):
        pairs = open_clip.list_pretrained()
        wrong = [
            (model, tag)
            for model, tag in pairs
            if open_clip.get_pretrained_cfg(model, tag).get("quick_gelu")
            and not open_clip.get_model_config(model).get("quick_gelu")
        ]
        assert len(wrong) > 20
        assert [pair for pair in pairs if needs_quick_gelu(*pair)] == wrong

    def test_the_loaded_model_computes_it_and_the_record_names_it(self, tmp_path, monkeypatch):
        torch.manual_seed(0)
        path = tmp_path / "weights.pt"
        torch.save(open_clip.create_model("ViT-S-32").state_dict(), path)
        config = EncodeConfig(model="ViT-S-32", pretrained=str(path), device="cpu")
        plain = load_encoder(config)
        monkeypatch.setattr(load, "needs_quick_gelu", lambda *_: True)
        quick = load_encoder(config)
        assert not any(isinstance(m, QuickGELU) for m in plain.model.modules())
        assert any(isinstance(m, QuickGELU) for m in quick.model.modules())
        assert (plain.record.activation, quick.record.activation) == ("", "quick_gelu")
        assert plain.record.digest == quick.record.digest
        assert not same_fingerprint(plain.record.fingerprint, quick.record.fingerprint)
        assert plain.record.redefined(quick.record) == (
            "activation (as defined then, quick_gelu now)"
        )

    @pytest.mark.parametrize("name", ["openai/model.pt", "metaclip_400m.pt"])
    def test_a_file_whose_name_suggests_it_is_warned_about(self, tmp_path, name):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        torch.save({"weight": torch.zeros(3)}, path)
        with pytest.warns(UserWarning, match="use `model` ViT-B-32-quickgelu if so"):
            check_checkpoint("ViT-B-32", path)
        check_checkpoint("ViT-B-32-quickgelu", path)

    def test_openais_torchscript_is_refused_with_the_tag(self, tmp_path):
        class Module(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x

        path = tmp_path / "ViT-B-32.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(Module()), path)
        cure = "use `model` ViT-B-32-quickgelu with `pretrained` openai"
        with pytest.raises(ModelError, match=cure):
            load_encoder(EncodeConfig(model="ViT-B-32", pretrained=str(path), device="cpu"))
        state = {name: torch.tensor(224) for name in OPENAI_KEYS}
        torch.save(state, path)
        with pytest.raises(ModelError, match=cure):
            check_checkpoint("ViT-B-32-quickgelu", path)
        save_file(state, tmp_path / "model.safetensors")
        with pytest.raises(ModelError, match=cure):
            check_checkpoint("ViT-B-32", tmp_path / "model.safetensors")


def test_a_missing_package_is_named_before_weights_are_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(open_clip, "create_model_and_transforms", None)
    config = EncodeConfig(model="ViT-B-16-SigLIP", pretrained="webli", device="cpu")
    with pytest.raises(
        ModelError, match=r"needs the package transformers.*clipdre\[transformers\]"
    ):
        load_encoder(config)


def test_a_librarys_long_message_ends_at_a_word(monkeypatch):
    def fail(*_, **__):
        raise OSError("We could not find it in the cached files.\nPlease check. " + "word " * 200)

    monkeypatch.setattr(load.open_clip, "create_model_and_transforms", fail)
    with pytest.raises(ModelError) as caught:
        load_encoder(EncodeConfig(model=SMALL, pretrained="openai"))
    assert caught.value.problem.endswith(" word word...)")


def test_models_that_are_loaded_in_threads_leave_logging_as_it_was():
    entered, leave = threading.Event(), threading.Event()

    def second():
        with load._quiet_open_clip():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=second)
    before = logging.root.manager.disable
    with load._quiet_open_clip():
        thread.start()
        assert not entered.wait(0.2)  # it waits for its turn
        assert logging.root.manager.disable == logging.ERROR
    assert entered.wait(10)
    leave.set()
    thread.join()
    assert logging.root.manager.disable == before
