"""Examples: that which plugs a subset into open_clip's trainer, and those of docstrings."""

import doctest
import importlib.util
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from open_clip.loss import ClipLoss as OpenClipLoss
from packaging.version import Version

from clipdre import training
from clipdre.config import EmitConfig
from clipdre.emitting.emit import write_tar_folder
from tests.helpers import subset_of

NEWEST = Version("0.2.86")  # that open_clip 3.3's own reader works with
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


def trained(arguments, folder, first=()):
    """Run a trainer for an epoch, with folders of packages to prefer; return its log."""
    model = PATH.parents[1] / "clipdre" / "tiny"
    options = ["--model", f"local-dir:{model}", "--batch-size", "16", "--workers", "1"]
    options += ["--epochs", "1", "--device", "cpu", "--logs", str(folder), "--name", "run"]
    paths = [*map(str, first), str(PATH.parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, *arguments, *options],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "run" / "checkpoints" / "epoch_1.pt").exists()
    return (folder / "run" / "out.log").read_text()


def test_open_clips_trainer_runs_on_a_subset_where_it_lies(scored, tmp_path):
    log = trained([PATH, scored[0], "log_ratio", "64", "log_ratio"], tmp_path)
    assert re.search(r"Train Epoch: 0 \[64/64 \(100%\)\].* Contrastive_loss: \d", log)


@pytest.fixture(scope="module")
def readable(tmp_path_factory):
    """Folders of packages with which open_clip 3.3's own reader works."""
    if Version(metadata.version("webdataset")) <= NEWEST:
        return []
    folder = tmp_path_factory.mktemp("webdataset")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    done = subprocess.run([*command, f"webdataset=={NEWEST}"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"open_clip 3.3's own reader needs webdataset {NEWEST}, which pip cannot get")
    return [folder]


def test_open_clips_trainer_runs_on_emitted_tars(scored, tmp_path, readable):
    write_tar_folder(subset_of(scored, by="log_ratio", top=64), tmp_path / "kept", EmitConfig())
    tars = ["--train-data", f"{tmp_path}/kept/{{00000000..00000000}}.tar"]
    samples = ["--train-num-samples", "64", "--dataset-type", "webdataset"]
    log = trained(["-m", "open_clip_train.main", *tars, *samples], tmp_path, readable)
    assert "Train Epoch: 0 [64/64 (100%)]" in log
