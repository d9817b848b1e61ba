"""Whole runs on a GPU against the same runs on the CPU."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import clipdre
from clipdre.config import EncodeConfig, EstimateConfig, Precision, ReferenceMethod
from clipdre.core.scores import MAIN_COLUMNS
from clipdre.pipelines.score import ScoreConfig, score
from clipdre.truth.pool import write_pool
from tests.gpu import CUDA

TINY = "clipdre-tiny"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    write_pool(folder, 2000, seed=5, noise={}, shard_size=500)
    return sorted(map(str, folder.glob("*.tar")))


def columns(shards, output, *, method=ReferenceMethod.EXACT, **encode):
    config = ScoreConfig(
        encode=EncodeConfig(model=TINY, **encode), estimate=EstimateConfig(method=method)
    )
    score(shards, output, config)
    table = clipdre.open_scores(output).to_arrow([c for c in MAIN_COLUMNS if c != "key"])
    return {name: table[name].to_numpy() for name in table.column_names}


@pytest.fixture(scope="module")
def on_the_cpu(shards, tmp_path_factory):
    return columns(shards, tmp_path_factory.mktemp("cpu") / "s", device="cpu")


def assert_alike(found, expected, least):
    for name, values in expected.items():
        assert spearmanr(found[name], values)[0] > least, name


def test_columns_are_those_of_the_cpu(shards, on_the_cpu, tmp_path, device):
    found = columns(shards, tmp_path / "s", device=CUDA, precision=Precision.FP32)
    for name, values in on_the_cpu.items():
        np.testing.assert_allclose(found[name], values, atol=0.05, err_msg=name)
    assert_alike(found, on_the_cpu, 0.9995)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_half_precision_ranks_alike(shards, on_the_cpu, tmp_path, device, precision):
    found = columns(shards, tmp_path / "s", device=CUDA, precision=precision)
    assert_alike(found, on_the_cpu, 0.999)


def test_auto_chooses_the_gpu_and_half_precision(shards, on_the_cpu, tmp_path, device):
    found = columns(shards, tmp_path / "s", device="auto")
    assert clipdre.open_scores(tmp_path / "s").manifest.model.precision == "fp16"
    assert_alike(found, on_the_cpu, 0.999)


def test_a_stratified_reference_agrees(shards, on_the_cpu, tmp_path, device):
    method = ReferenceMethod.STRATIFIED
    found = columns(shards, tmp_path / "s", device=CUDA, method=method)
    assert spearmanr(found["log_ratio"], on_the_cpu["log_ratio"])[0] > 0.999


def test_two_processes_share_a_device(shards, on_the_cpu, tmp_path, device):
    found = columns(shards, tmp_path / "s", device=f"{CUDA},{CUDA}", precision=Precision.FP32)
    assert_alike(found, on_the_cpu, 0.9995)


def test_a_batch_that_does_not_fit_is_halved(shards, on_the_cpu, tmp_path, device):
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 300e6 / total), device)
    try:
        with pytest.warns(UserWarning, match="does not fit"):
            found = columns(
                shards, tmp_path / "s", device=CUDA, precision=Precision.FP32, batch_size=2000
            )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()
    assert_alike(found, on_the_cpu, 0.9995)
