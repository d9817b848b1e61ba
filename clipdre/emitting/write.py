"""Write a subset to a folder, a file, a store or a stream, in any format."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from clipdre.config import EmitConfig, SubsetFormat
from clipdre.emitting.emit import write_tar_folder
from clipdre.emitting.export import WRITERS
from clipdre.emitting.place import check_file
from clipdre.emitting.relocate import relocated
from clipdre.emitting.subset import Subset
from clipdre.errors import OutputError
from clipdre.formats.files.outputs import parent_folder
from clipdre.only_with import NotWith, OnlyWith, Pairing, check
from clipdre.selecting.select import Selection

STDOUT = "-"
# These settings shape a folder of tars. They would have no effect on any other output.
FOLDER_SETTINGS = ("shard_size", "max_bytes", "shuffle_seed")
PAIRINGS: tuple[Pairing, ...] = (
    *(OnlyWith(name, ("format",), SubsetFormat.TAR.value) for name in FOLDER_SETTINGS),
    *(
        NotWith(name, ("output",), STDOUT, because="a single tar in pool order")
        for name in FOLDER_SETTINGS
    ),
)


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes
    ----------
    place : str
        Path or URL of the output; ``-`` for a stream.
    kept : int
        Number of samples.
    summary : dict or None
        Content of ``summary.json`` in a folder of tars; None for other outputs.
    renamed : int
        Number of samples in tars whose key was shared and is now unique.
    """

    place: str
    kept: int
    summary: dict[str, Any] | None = None
    renamed: int = 0


def write_subset(  # noqa: PLR0913 (one door for every format and place)
    selection: Selection,
    output: str | Path | BinaryIO,
    *,
    format: SubsetFormat = SubsetFormat.TAR,
    config: EmitConfig | None = None,
    shards: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Written:
    """Write the selected samples.

    Parameters
    ----------
    output : str, Path or binary file
        Path or URL: a folder for tars, a file for other formats. ``-`` is stdout. Stdout and open
        files receive a single tar, or the same bytes as a file.
    format : SubsetFormat
    config : EmitConfig or None
        Settings of a folder of tars; None for the defaults.
    shards : sequence of str or None
        Paths and URLs of the tars to take samples from, if not those that were scored.
    overwrite : bool
        Replace an existing subset or file.

    Raises
    ------
    UsageError
        If a setting of `config` would have no effect on this output (`PAIRINGS`).
    OutputError
        If the selection is empty, or the output exists or cannot be written.
    InputError
        If a tar is missing or has changed since it was scored, or `shards` lack a sample.
    """
    stream = _stream(output)
    place = STDOUT if stream is not None else str(output)
    check({"format": format, "output": place, **_changed(config)}, PAIRINGS)
    if not len(selection):
        raise OutputError("nothing is kept, so there is nothing to write", "loosen the selection")
    tars = format is SubsetFormat.TAR
    if stream is None and not tars:
        check_file([*Subset(selection).inputs(), *(shards or ())], place, overwrite)
    subset = relocated(selection, shards) if shards else Subset(selection)
    if stream is not None:
        WRITERS[format](subset, stream)
        stream.flush()
    elif not tars:
        folder, name = parent_folder(place)
        with folder.committed(name) as temporary, open(temporary, "xb") as out:
            WRITERS[format](subset, out)
    else:
        summary = write_tar_folder(subset, place, config or EmitConfig(), overwrite=overwrite)
        return Written(place, len(selection), summary, summary["renamed"])
    return Written(place, len(selection), renamed=subset.renamed if tars else 0)


def _stream(output: str | Path | BinaryIO) -> BinaryIO | None:
    if output == STDOUT:
        return sys.stdout.buffer
    return None if isinstance(output, str | Path) else output


def _changed(config: EmitConfig | None) -> dict[str, Any]:
    """Return the settings that differ from their defaults."""
    defaults = asdict(EmitConfig())
    return {n: v for n, v in asdict(config or EmitConfig()).items() if v != defaults[n]}
