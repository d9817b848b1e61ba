"""Pools with more shards than a process may open files."""

import subprocess
import sys

from tests.helpers import pair, write_tar

SHARDS, OPEN = 120, 80
EVERY_STEP = """
import resource
import sys
from pathlib import Path

import clipdre
from clipdre.config import EncodeConfig

resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[2])))
folder = Path(sys.argv[1])
tiny = EncodeConfig(model="clipdre-tiny", device="cpu", workers=2)
scores = clipdre.score([str(folder / "pool")], folder / "scores", encode=tiny)
assert clipdre.check_reference(scores).checked
circles = {"prompt": ("a circle",)}
clipdre.measure(scores, "prompt-weight", device="cpu", settings=circles)
for seed in (None, 1):
    kept = clipdre.select(scores, by="prompt_weight", top=0.5)
    clipdre.emit(kept, folder / f"kept-{seed}", shuffle_seed=seed)
shards = [str(folder / "pool")]
clipdre.emit(clipdre.select(scores, by="kl_text", top=0.5), folder / "kept.tar", shards=shards)
embeddings = folder / "scores" / "embeddings"
clipdre.score_embeddings(embeddings, folder / "again", logit_scale=30.0, device="cpu")
"""


def test_every_step_works_with_few_open_files(tmp_path):
    (tmp_path / "pool").mkdir()
    for n in range(SHARDS):
        write_tar(tmp_path / "pool" / f"{n:05d}.tar", pair(f"k{n}", f"red {n}", seed=n))
    command = [sys.executable, "-c", EVERY_STEP, str(tmp_path), str(OPEN)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
