"""Build the wheel and the sdist, and run the demo from the wheel in an environment of its own.

python scripts/check_dist.py --out dist    # several GB of packages, a few minutes
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, folder: Path) -> str:
    """Run a command in a folder, showing its messages; return what it writes to stdout."""
    words = [*map(str, command)]
    return subprocess.run(
        words, cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def main(out: Annotated[Path, typer.Option(help="Folder of the wheel and sdist.")]) -> None:
    """Print what was built and what the demo says; exit with 1 if anything fails."""
    out = out.resolve()
    # The wheel is built from the sdist, so that both are complete.
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, folder=ROOT)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        venv.create(folder / "venv", with_pip=True)
        own = folder / "venv" / "bin"
        wheel = max(out.glob("*.whl"), key=lambda path: path.stat().st_mtime)
        quiet = ("--quiet", "--disable-pip-version-check")
        run(own / "python", "-m", "pip", "install", *quiet, wheel, folder=folder)
        code = "import clipdre; print(clipdre.__file__)"
        if not run(own / "python", "-c", code, folder=folder).startswith(str(folder)):
            raise SystemExit("the environment has another clipdre")
        print(run(own / "clipdre", "--version", folder=folder))
        print(run(own / "clipdre", "demo", "demo", folder=folder))
    for path in sorted(out.iterdir()):
        print(f"{path.stat().st_size:>12,}  {path}")


if __name__ == "__main__":
    typer.run(main)
