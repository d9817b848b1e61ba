import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import check_gpu

    return check_gpu


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("print('fine')", "passed"),
        ("print('bad'); raise SystemExit(3)", "failed (3)"),
        ("print('slow', flush=True); import time; time.sleep(60)", "out of time"),
    ],
)
def test_a_check_passes_fails_or_runs_out_of_time(script, code, result):
    found = script.outcome(script.Check("x", ["-c", code], 60), 5, dict(os.environ))
    assert found.result == result
    assert found.output.split() == [code.split("'")[1]]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_machine_without_the_device_fails(tmp_path, device):
    command = [sys.executable, str(SCRIPTS / "check_gpu.py"), "run", "--only", "machine"]
    output = tmp_path / "gpu.json"
    done = subprocess.run([*command, "--device", device, "-o", str(output)], check=False)
    (found,) = json.loads(output.read_text())
    expected = device == "cpu" or torch.cuda.is_available()
    assert (found["result"] == "passed", done.returncode == 0) == (expected, expected)
    assert torch.__version__ in found["output"]


def test_packages_to_carry_are_those_that_are_needed_without_torch(script):
    found = script.closure()
    assert {"open-clip-torch", "webdataset", "faiss-cpu", "pytest"} <= found
    assert not found & {"torch", "triton", "torchvision"}
