"""The script for SLURM runs slices in a job array, and the whole command otherwise."""

from pathlib import Path

from clipdre.formats.folders.manifest import read_manifest
from tests.cli.running import TINY, shell, succeeded

SCRIPT = Path(__file__).parents[1] / "examples" / "slurm" / "clipdre.sbatch"


def test_a_job_array_and_the_job_after_it_score_a_pool(pool, tmp_path):
    run = f"bash {SCRIPT} score {pool} -o s {TINY}"
    task = "SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_COUNT=2 SLURM_ARRAY_TASK_STEP=1"
    done = shell(f"{task} SLURM_ARRAY_TASK_ID=1 {run}", tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "slice 2/2 is encoded: 1 shard, 100 samples" in done.stderr.splitlines()
    assert succeeded(run, tmp_path) == "s\n"
    assert read_manifest(tmp_path / "s").rows == 300
