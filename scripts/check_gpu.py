"""Prove or refute on one machine with a GPU what was written for it, in under nine minutes.

The machine needs Python with torch, Triton and pytest, but no network: collect the other packages
where there is one, and carry the folder along with the checkout.

    python scripts/check_gpu.py collect wheels --python 3.12 --have torch --have numpy
    python scripts/check_gpu.py run --wheels wheels -o gpu.json        # or: make gpu
    python scripts/check_gpu.py run --device cpu --only tests          # tries the script itself
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parents[1]
# What the checks use beyond clipdre's own requirements.
ALSO = ("pytest", "hypothesis", "scipy")
# Come with a CUDA build of torch.
WITH_TORCH = re.compile(r"torch|torchvision|triton|nvidia-.*|cuda-.*")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")
BUDGET = 520
NAME = re.compile(r"[A-Za-z0-9._-]+")
app = typer.Typer(add_completion=False, no_args_is_help=True)


@dataclass(frozen=True)
class Check:
    """A command to run, and the seconds that it may take."""

    name: str
    arguments: list[str]
    seconds: int


@dataclass(frozen=True)
class Outcome:
    """What came of a check: passed, failed, or out of time."""

    name: str
    result: str
    seconds: float
    output: str


def checks(device: str, workers: int) -> list[Check]:
    """Return all checks, the most important first."""
    score = [
        "scripts/bench_score.py",
        *("--device", device, "--precision", "fp16", "--precision", "bf16"),
        *("--workers", str(workers), "--repeats", "2"),
    ]
    million = ["--rows", "1000000", "--pairs", "1000000", "--published-rows", "0"]
    jpegs = ["--pairs", "6000", "--batch-size", "512"]
    return [
        Check("machine", ["-c", MACHINE, device], 60),
        Check("tests", ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"], 150),
        Check("kernel", ["scripts/bench_kernel.py", "--sweep"], 120),
        Check("score ViT-B-32", [*score, "--model", "ViT-B-32", *jpegs], 120),
        Check("score ViT-L-14", [*score, "--model", "ViT-L-14", *jpegs], 120),
        Check("estimate", ["scripts/bench_estimate.py", "--device", device, *million], 120),
        Check("encoder", ["scripts/bench_encoder.py", "--device", device], 120),
        Check("jpeg", ["scripts/bench_jpeg.py"], 60),
    ]


MACHINE = """
import os, sys, torch
print("torch", torch.__version__, "cuda", torch.version.cuda, "cores", len(os.sched_getaffinity(0)))
for n in range(torch.cuda.device_count()):
    found = torch.cuda.get_device_properties(n)
    print(n, found.name, f"{found.total_memory / 2**30:.0f} GiB", found.multi_processor_count)
try:
    import triton; print("triton", triton.__version__)
except ImportError as error:
    print(error)
sys.exit(sys.argv[1].startswith("cuda") and not torch.cuda.is_available())
"""


@app.command()
def run(
    output: Annotated[Path, typer.Option("-o")] = Path("gpu.json"),
    wheels: Annotated[Path | None, typer.Option(help="Folder of 'collect'.")] = None,
    device: str = "cuda",
    only: Annotated[list[str] | None, typer.Option(help="Checks to run.")] = None,
    budget: Annotated[int, typer.Option(help="Seconds for all checks.")] = BUDGET,
) -> None:
    """Run the checks, print what they print, and write it all to a JSON file; exit 1 on failure."""
    started, outcomes = time.monotonic(), []
    workers = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as site:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"}
        if wheels is not None:
            install(wheels, Path(site))
            environment["PYTHONPATH"] += f"{os.pathsep}{site}"
        for check in checks(device, workers):
            if only and check.name not in only:
                continue
            left = budget - (time.monotonic() - started)
            if left < min(20, check.seconds):
                outcomes.append(Outcome(check.name, "not run: out of time", 0.0, ""))
            else:
                outcomes.append(outcome(check, min(left, check.seconds), environment))
            output.write_text(json.dumps([asdict(o) for o in outcomes], indent=1))
    print("\n| check | result | seconds |\n|---|---|---|")
    for found in outcomes:
        print(f"| {found.name} | {found.result} | {found.seconds:.0f} |")
    raise typer.Exit(code=int(any(found.result != "passed" for found in outcomes)))


def outcome(check: Check, seconds: float, environment: dict[str, str]) -> Outcome:
    """Run one check, and print its output."""
    print(f"\n== {check.name}", flush=True)
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *check.arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
        result = "passed" if process.returncode == 0 else f"failed ({process.returncode})"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        printed, _ = process.communicate()
        result = "out of time"
    print(printed[-6000:], flush=True)
    return Outcome(check.name, result, time.monotonic() - start, printed)


def install(wheels: Path, site: Path) -> None:
    """Install wheels into a folder, without a network."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    files = sorted(map(str, wheels.glob("*.whl")))
    subprocess.run([*command, "--no-compile", "--target", str(site), *files], check=True)


@app.command()
def collect(
    folder: Path,
    python: Annotated[str, typer.Option(help="Version of Python there.")] = "3.12",
    have: Annotated[list[str] | None, typer.Option(help="Package that is there.")] = None,
) -> None:
    """Download what clipdre needs beyond torch, as wheels for Linux on x86-64."""
    present = {name.lower() for name in have or ()}
    wanted = [
        f"{name}=={metadata.version(name)}"
        for name in sorted(closure())
        if name not in present and not WITH_TORCH.fullmatch(name)
    ]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    target = ["--python-version", python, "--implementation", "cp", "-d", str(folder)]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run([*command, *target, *platforms, *wanted], check=True)
    size = sum(file.stat().st_size for file in folder.glob("*.whl")) / 2**20
    print(f"{len(wanted)} packages, {size:.0f} MiB in {folder}")


def closure() -> set[str]:
    """Return the names of all packages that clipdre and the checks need, as installed here."""
    found: set[str] = set()
    left = [*required("clipdre"), *ALSO]
    while left:
        name = left.pop()
        if name not in found and not WITH_TORCH.fullmatch(name):
            found.add(name)
            left += required(name)
    return found


def required(name: str) -> Iterator[str]:
    """Yield the packages that an installed one needs here, without its extras."""
    for line in metadata.requires(name) or ():
        word = NAME.match(line)
        other = re.sub(r"[._]+", "-", word[0].lower()) if word else ""
        if "extra ==" not in line and _is_installed(other):
            yield other


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    app()
