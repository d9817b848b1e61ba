"""Examples: that which plugs a subset into open_clip's trainer, and those of docstrings."""

import doctest
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from open_clip.loss import ClipLoss as OpenClipLoss

from clipdre import training

PATH = Path(__file__).parents[2] / "examples" / "train_open_clip.py"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_gives_the_trainer_batches_and_a_weighted_loss(scored):
    spec = importlib.util.spec_from_file_location("train_open_clip", PATH)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    args = SimpleNamespace(seed=0, batch_size=32, workers=2, rank=0, world_size=1, local_loss=False)
    args.gather_with_grad = False
    rule = str(scored[0]), "log_ratio", "50%", "log_ratio"
    preprocess = open_clip.image_transform(32, is_train=False)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    found = example.load(rule, args, preprocess, is_train=True, epoch=0, tokenizer=tokenizer)
    assert (found.dataloader.num_batches, found.dataloader.num_samples) == (4, 128)
    first = [(images.shape, texts.shape) for images, texts in found.dataloader]
    assert first == [((32, 3, 32, 32), (32, 16))] * 4
    weights = example.WeightedLoss.weights
    features = {n: torch.eye(32) for n in ("image_features", "text_features")}
    outputs = {**features, "logit_scale": 1.0, "output_dict": True}
    loss = example.create_loss(args)(**outputs)["contrastive_loss"]
    assert weights.shape == (32,)
    assert len(set(weights.tolist())) > 16
    # All pairs have the same loss here, so weights that are normalised do not change it.
    torch.testing.assert_close(loss, OpenClipLoss()(**outputs)["contrastive_loss"])
    found.set_epoch(1)
    again = torch.cat([texts for _, texts in found.dataloader])
    found.set_epoch(0)
    assert not torch.equal(again, torch.cat([texts for _, texts in found.dataloader]))


@pytest.mark.parametrize("name", ["dataset", "ClipLoss"])
def test_the_examples_of_docstrings_run(scored, tmp_path, monkeypatch, name):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "scores-clean").symlink_to(scored[0])
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(training, name), name, globs={})
    assert doctest.DocTestRunner().run(example).failed == 0
    assert example.examples
