"""Options that many commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from clipdre.cli.messages import with_options
from clipdre.config import EngineName


def no_stream(folder: Path | None) -> Path | None:
    """Return a folder to write; refuse ``-``, which stands for stdout elsewhere."""
    if str(folder) == "-":
        raise typer.BadParameter("this command writes a folder, not a stream: name one")
    return folder


SliceOption = Annotated[
    str | None,
    typer.Option(
        "--slice",
        help="Do only this part of the work, such as 3/8, while other machines do the others in "
        "the same folder; auto: as CLIPDRE_SLICE or a SLURM job array says. The same command "
        "without it does what is missing, and finishes.",
        metavar="I/N",
        rich_help_panel="Run",
    ),
]
Engines = Annotated[
    EngineName,
    typer.Option(
        "--engine",
        help="local: this machine; ray: the nodes of a Ray cluster, which share its file system.",
        metavar="NAME",
        rich_help_panel="Run",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="HOST:PORT of the Ray cluster.  (default: that of RAY_ADDRESS or of this machine, or "
        "else a new one on this machine)",
        metavar="HOST:PORT",
        show_default=False,
        rich_help_panel="Run",
    ),
]


def _cpus(default: str) -> Any:
    return typer.Option(
        "--cpus-per-worker",
        min=1,
        help=f"CPUs of each Ray worker.  (default: {default})",
        metavar="N",
        show_default=False,
        rich_help_panel="Run",
    )


CpusPerWorker = Annotated[int | None, _cpus("those of the smallest node, shared among its GPUs")]
OneCpu = Annotated[int | None, _cpus("1")]


def score_folder(place: str) -> Path:
    """Return the local path of a score folder: of its working copy if it is in a store."""
    from clipdre.formats.folders.working_copy import local_copy

    return local_copy(place)


def _use_scratch(folder: Path | None) -> Path | None:
    from clipdre.formats.folders.working_copy import use_scratch

    use_scratch(folder)
    return folder


SCORES_HELP = "Score folder, as 'clipdre score' printed it: a path, or the URL of one in a store."
Scores = Annotated[Path, typer.Argument(help=SCORES_HELP, metavar="SCORES", parser=score_folder)]
Scratch = Annotated[
    Path | None,
    typer.Option(
        callback=_use_scratch,
        is_eager=True,  # before score folders are looked for
        help="Local folder for working copies of score folders in stores.  (default: in the user's "
        "cache)",
        metavar="FOLDER",
        show_default=False,
        rich_help_panel="Stores",
    ),
]


def with_scratch(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes score folders with the option --scratch."""
    return with_options(command, {"scratch": (Scratch, None)})


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
