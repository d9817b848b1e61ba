"""Kill `score`, `filter` and `emit` at random moments, resume, and compare with unbroken runs.

Then kill nodes of a Ray cluster while they score, measure and emit.

python scripts/torture.py --kills 200 --nodes 100
python scripts/torture.py --kills 5 --pairs 60 --seed 3
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tarfile
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the cluster of the tests

from clipdre.cli.main import app
from clipdre.encoding import jobs as encoding_jobs
from clipdre.truth.pool import write_pool
from tests.clusters_of_ray import add_node, cluster_of, kill_raylet

# Commands import these when they run; importing them here spares every forked process.
LOADED = ("clipdre.pipelines.score", "clipdre.emitting.export", "clipdre.cli.preview")
# Suffixes of files that hold floats: which pairs are encoded together changes their last bits.
NUMBERS = (".parquet", ".npy", ".npz", ".json")
TINY = ["--model", "clipdre-tiny", "--device", "cpu", "--batch-size", "16"]
MEASURE = ["conformity", "--device", "cpu"]
# Seconds after which a run that lost a node does not end by itself.
ENDLESS = 300


def started(arguments: list[str]) -> int:
    """Fork a process that runs a command with all imports done; return its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        log = os.open(os.environ["TORTURE_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(log, 2)
        os.setpgid(0, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            app(arguments, standalone_mode=False)
        code = 0
    finally:
        os._exit(code)


def finished(arguments: list[str]) -> float:
    """Run a command to its end; return its seconds."""
    begin = time.monotonic()
    _, status = os.waitpid(started(arguments), 0)
    if status:
        raise SystemExit(f"clipdre {' '.join(arguments)} failed: see {os.environ['TORTURE_LOG']}")
    return time.monotonic() - begin


def killed(arguments: list[str], after: float) -> bool:
    """Kill a command after some seconds; return whether it was still running."""
    child = started(arguments)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"clipdre {' '.join(arguments)} failed: see {os.environ['TORTURE_LOG']}")
    return os.WIFSIGNALED(status)


def check_whole(folder: Path) -> None:
    """Check that every file under its final name can be read to its end."""
    for path in folder.rglob("*"):
        if path.name.startswith(".unfinished-"):
            continue
        if path.suffix == ".parquet":
            pq.read_table(path)
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".tar":
            with tarfile.open(path) as tar:
                tar.getmembers()


def check_same(found: Path, whole: Path, *, exactly: bool) -> None:
    """Check that two folders hold the same files, byte for byte or to float tolerance."""
    names = [
        sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        for folder in (found, whole)
    ]
    if names[0] != names[1]:
        raise SystemExit(f"files differ: {sorted(set(names[0]) ^ set(names[1]))}")
    for name in names[0]:
        a, b = found / name, whole / name
        if a.read_bytes() == b.read_bytes():
            continue
        if exactly or a.suffix not in NUMBERS or not numbers_agree(a, b):
            raise SystemExit(f"{name} differs from that of the unbroken run")


def numbers_agree(a: Path, b: Path) -> bool:
    """Whether two tables, arrays or records are equal to float tolerance."""
    if a.suffix == ".npy":
        return np.allclose(np.load(a), np.load(b), atol=2e-3)
    if a.suffix == ".npz":
        with np.load(a) as one, np.load(b) as other:
            return one.files == other.files and all(
                np.allclose(one[name], other[name], atol=2e-3)
                if one[name].dtype.kind == "f"
                else np.array_equal(one[name], other[name])
                for name in one.files
            )
    if a.suffix == ".json":
        one, other = (json.loads(path.read_bytes()) for path in (a, b))
        halves = [list(found.pop("pool_reliability", {}).values()) for found in (one, other)]
        return one == other and np.allclose(*halves, atol=2e-3)
    left, right = pq.read_table(a), pq.read_table(b)
    if left.schema != right.schema or len(left) != len(right):
        return False
    return all(
        np.allclose(x.to_numpy(), y.to_numpy(), rtol=1e-3, atol=2e-3, equal_nan=True)
        if str(x.type) in ("float", "double")
        else x.equals(y)
        for x, y in zip(left.columns, right.columns, strict=True)
    )


def check_old(out: Path, old: Path) -> None:
    """Check that what is to be replaced is there in full unless it was marked as incomplete."""
    mark = next(name for name in ("summary.json", "manifest.json") if (old / name).exists())
    now = (out / mark).read_bytes() if (out / mark).exists() else b""
    if now == (old / mark).read_bytes():
        for path in old.rglob("*"):
            if path.is_file() and (out / path.relative_to(old)).read_bytes() != path.read_bytes():
                raise SystemExit(f"{path.name} was changed before its replacement was complete")


def torture(
    arguments: list[str],
    out: Path,
    kills: int,
    dice: random.Random,
    old: Path | None = None,
    replacing: tuple[str, ...] = ("--overwrite",),
) -> str:
    """Kill a command `kills` times, which may replace `old`; return a line about the outcome."""
    whole = out.with_name(f"{out.name}-whole")
    run = [*arguments, "-o", str(out)]
    seconds = finished(run)
    out.rename(whole)
    if old is not None:
        run += replacing
        shutil.copytree(old, out)
        seconds += finished(run)
        shutil.rmtree(out)
        shutil.copytree(old, out)
    exactly = arguments[0] != "score"
    done, runs, fresh = 0, 0, True
    while done < kills:
        after = dice.uniform(0, seconds)
        if killed(run, after):
            done, fresh = done + 1, False
            check_whole(out)
            if old is not None:
                check_old(out, old)
            if dice.random() < 0.8:
                continue
            finished(run)
        elif fresh:  # the machine was busier when the run was timed
            seconds = after
        runs, fresh = runs + 1, True
        check_same(out, whole, exactly=exactly)
        shutil.rmtree(out)
        if old is not None:
            shutil.copytree(old, out)
    finished(run)
    check_same(out, whole, exactly=exactly)
    return (
        f"{out.name}: {done} kills, {runs + 1} runs that ended, all as the unbroken one "
        f"({seconds:.1f} s)"
    )


@dataclass(frozen=True)
class OnCluster:
    """A command for a cluster, where it writes, what that is in the end, and what it is before."""

    arguments: list[str]
    out: Path
    whole: Path
    before: Path | None = None


def torture_nodes(folder: Path, rule: list[str], kills: int, dice: random.Random) -> Iterator[str]:
    """Kill nodes while they score, measure and emit; yield a line about each command."""
    encoding_jobs.TOGETHER = 0  # hand out shards one by one, however small
    scored, measured = folder / "score-whole", folder / "measure-whole"
    shutil.copytree(scored, measured)
    run(["measure", str(measured), *MEASURE])
    score, measure, emit = (folder / f"{name}-ray" for name in ("score", "measure", "emit"))
    commands = (
        OnCluster(["score", str(folder / "pool"), *TINY, "-o", str(score)], score, scored),
        OnCluster(["measure", str(measure), *MEASURE], measure, measured, scored),
        OnCluster(["filter", str(scored), *rule, "-o", str(emit)], emit, folder / "filter-whole"),
    )
    with cluster_of(2) as cluster:
        for n, command in enumerate(commands):
            yield torture_cluster(command, cluster, (kills + n) // len(commands), dice)


def torture_cluster(command: OnCluster, cluster: Any, kills: int, dice: random.Random) -> str:
    """Run a command until it has lost a node `kills` times; return a line about the outcome."""
    arguments = [*command.arguments, "--engine", "ray", "--address", cluster.address]
    begin = time.monotonic()
    begun = len(files_of(command.before)) if command.before else 0
    files = len(files_of(command.whole)) - begun
    done = runs = 0
    while done < kills:
        if command.before:
            shutil.copytree(command.before, command.out)
        victim = dice.choice(list(cluster.worker_nodes))
        if loses(victim, arguments, command.out, begun + dice.randrange(1, files)):
            cluster.remove_node(victim, allow_graceful=False)
            add_node(cluster)
            done += 1
        runs += 1
        check_same(command.out, command.whole, exactly=arguments[0] == "filter")
        shutil.rmtree(command.out)
    seconds = (time.monotonic() - begin) / max(1, runs)
    return (
        f"{command.out.name}: {done} nodes killed in {runs} runs, all as the unbroken one "
        f"({seconds:.1f} s each)"
    )


def loses(victim: Any, arguments: list[str], out: Path, files: int) -> bool:
    """Run a command, and kill a node when `out` has so many files; return whether it came to it."""
    over, lost = threading.Event(), threading.Event()

    def kill() -> None:
        while not over.wait(0.002):
            if len(files_of(out)) >= files:
                kill_raylet(victim)
                lost.set()
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run(arguments)
    finally:
        over.set()
        killer.join()
    return lost.is_set()


def files_of(folder: Path) -> list[Path]:
    """Return the finished files of a folder, which others may change meanwhile."""
    found = []
    for place, _, names in os.walk(folder):
        found += [Path(place, name) for name in names if not name.startswith(".unfinished-")]
    return found


def run(arguments: list[str]) -> None:
    """Run a command in this process, which has joined the cluster."""

    def give_up(*_: object) -> None:
        raise SystemExit(f"clipdre {' '.join(arguments)} does not end")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(ENDLESS)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        app(arguments, standalone_mode=False)
    signal.alarm(0)


def main(
    kills: Annotated[int, typer.Option(help="Kills of each command.")] = 200,
    pairs: Annotated[int, typer.Option(help="Pairs in the pool.")] = 400,
    nodes: Annotated[int, typer.Option(help="Kills of nodes of a Ray cluster, in all.")] = 100,
    seed: Annotated[int, typer.Option(help="Random seed of the moments.")] = 0,
) -> None:
    """Print a line for each command; exit with 1 at the first difference."""
    for name in LOADED:
        importlib.import_module(name)
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["TORTURE_LOG"] = str(folder / "log")
        write_pool(
            folder / "pool", pairs, seed=1, noise={"broken": 0.02}, shard_size=max(1, pairs // 8)
        )
        data = (folder / "pool" / "00001.tar").read_bytes()
        (folder / "pool" / "00001.tar").write_bytes(data[: len(data) // 2])
        score = ["score", str(folder / "pool"), *TINY, "--workers", "2"]
        print(torture(score, folder / "score", kills, dice))
        scores = str(folder / "score-whole")
        size = ["--shard-size", str(max(1, pairs // 20))]
        rule = ["--by", "log_ratio", "--top", "60%", *size, "--writers", "2"]
        print(torture(["filter", scores, *rule], folder / "filter", kills, dice))
        keys = folder / "keys"
        finished(["filter", scores, "--sample", "50%", "--format", "keys", "-o", str(keys)])
        listed = ["emit", scores, "--keys", str(keys), "--shuffle", *size]
        print(torture(listed, folder / "emit", kills, dice))
        exact = ["--reference", "sample", "--bulk", "64"]
        old = folder / "old-scores"
        finished([*score, *exact, "-o", str(old)])
        print(torture(score, folder / "score-overwrite", kills, dice, old))
        old, half = folder / "half-scores", sorted((folder / "pool").glob("*.tar"))[::2]
        finished(["score", *map(str, half), *TINY, "--workers", "2", "-o", str(old)])
        print(torture(score, folder / "score-growth", kills, dice, old, replacing=()))
        old = folder / "emit-whole"
        print(torture(["filter", scores, *rule], folder / "filter-overwrite", kills, dice, old))
        if nodes:  # last, because a process with threads of Ray must not fork
            for line in torture_nodes(folder, [*rule[:-2]], nodes, dice):
                print(line, flush=True)


if __name__ == "__main__":
    sys.exit(typer.run(main))
