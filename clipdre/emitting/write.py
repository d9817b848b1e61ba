"""Write a subset to a folder, a file, a store or a stream, in any format."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import RawIOBase
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from clipdre.config import EmitConfig, SubsetFormat
from clipdre.emitting.emit import write_tar_folder, write_tar_slice
from clipdre.emitting.export import WRITERS
from clipdre.emitting.place import check_file
from clipdre.emitting.read_back import read_back
from clipdre.emitting.relocate import relocated
from clipdre.emitting.subset import Subset
from clipdre.errors import OutputError, ScoresError, UsageError
from clipdre.formats.files.outputs import parent_folder
from clipdre.formats.files.parquet import SCORE_AGAIN
from clipdre.formats.files.remote import redacted
from clipdre.only_with import NotWith, OnlyWith, Pairing, check
from clipdre.selecting.select import Selection

STDOUT = "-"
# These settings shape a folder of tars. They would have no effect on any other output.
FOLDER_SETTINGS = ("shard_size", "max_bytes", "shuffle_seed", "card", "slice", "engine")
SUFFIXES = {
    ".tar": SubsetFormat.TAR,
    ".txt": SubsetFormat.KEYS,
    ".npy": SubsetFormat.UIDS,
    **{
        f".{each}": each
        for each in SubsetFormat
        if each.value in ("parquet", "arrow", "csv", "jsonl")
    },
}
COMPRESSED = (".gz", ".tgz", ".zst", ".bz2", ".xz")
BINARY = (
    SubsetFormat.TAR,
    SubsetFormat.INDEX,
    SubsetFormat.UIDS,
    SubsetFormat.PARQUET,
    SubsetFormat.ARROW,
)


def format_of(place: str, format: SubsetFormat | None) -> SubsetFormat:
    """Return `format`, or if it is None the one that the suffix of an output stands for.

    Raises
    ------
    UsageError
        If the suffix is that of a compressed file.
    """
    suffix = PurePosixPath(place).suffix.lower()
    if suffix in COMPRESSED:
        raise UsageError(
            f"`output` {redacted(place)} is a compressed file, which clipdre does not write",
            "drop the suffix, or write to - and compress that",
        )
    return format or SUFFIXES.get(suffix, SubsetFormat.TAR)


def is_one_tar(place: str, format: SubsetFormat) -> bool:
    """Return whether an output is a single tar instead of a folder of them."""
    return format is SubsetFormat.TAR and (place == STDOUT or place.endswith(".tar"))


def pairings(place: str, format: SubsetFormat) -> tuple[Pairing, ...]:
    """Return which settings go with an output."""
    if is_one_tar(place, format):
        why = "a single tar in pool order"
        return tuple(NotWith(name, ("output",), place, because=why) for name in FOLDER_SETTINGS)
    settings = (*FOLDER_SETTINGS, "write_caption")
    return tuple(OnlyWith(name, ("format",), SubsetFormat.TAR.value) for name in settings)


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes
    ----------
    place : str
        Path or URL of the output; ``-`` for a stream.
    kept : int
        Number of samples, in all or in the slice.
    summary : dict or None
        Content of ``summary.json`` in a folder of tars; None for other outputs and for a slice.
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
    format: SubsetFormat | None = None,
    config: EmitConfig | None = None,
    shards: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Written:
    """Write the selected samples.

    Parameters
    ----------
    output : str, Path or binary file
        Path or URL: a folder for tars, a file for other formats and for names that end with
        ``.tar``. ``-`` is stdout. Stdout, files of that name and open files receive a single tar.
    format : SubsetFormat or None
        None is what the suffix of `output` stands for (`SUFFIXES`), else tar.
    config : EmitConfig or None
        Settings of a folder of tars; None for the defaults.
    shards : sequence of str or None
        Paths and URLs of the tars to take samples from, if not those that were scored.
    overwrite : bool
        Replace an existing subset or file.

    Raises
    ------
    UsageError
        If a setting of `config` would have no effect on this output (`pairings`).
    OutputError
        If the selection is empty, or the output exists or cannot be written.
    InputError
        If a tar is missing or has changed since it was scored, or `shards` lack a sample.
    """
    stream = _stream(output)
    place = STDOUT if stream is not None else str(output)
    kind = format_of(place, format)
    check({"format": kind, "output": place, **_changed(config)}, pairings(place, kind))
    if not len(selection):
        raise OutputError("nothing is kept, so there is nothing to write", "loosen the selection")
    tars = kind is SubsetFormat.TAR
    write_caption = config is not None and config.write_caption
    in_tars = tars or kind is SubsetFormat.INDEX
    needed = ["shard", "key", *(("offset", "nbytes") if in_tars else ())]
    needed += ["caption"] if write_caption else []
    if lacking := [name for name in needed if name not in selection.query.columns]:
        problem = f"the scores in {selection.query.folder.path} lack {', '.join(lacking)}"
        raise ScoresError(problem, SCORE_AGAIN)
    to_file = stream is None and (not tars or is_one_tar(place, kind))
    if to_file:
        check_file([*Subset(selection).inputs(), *(shards or ())], place, overwrite)
    subset = relocated(selection, shards) if shards else Subset(selection)
    subset.write_caption = write_caption
    if stream is not None:
        WRITERS[kind](subset, stream)
        stream.flush()
    elif to_file:
        folder, name = parent_folder(place)
        folder.remove_leftovers(name)
        with folder.committed(name) as temporary:
            with open(temporary, "xb") as out:
                WRITERS[kind](subset, out)
            if tars:
                read_back(temporary, name, len(selection))
    elif config is not None and config.slice is not None:
        kept = write_tar_slice(subset, place, config, config.slice, overwrite=overwrite)
        return Written(place, kept)
    else:
        summary = write_tar_folder(subset, place, config or EmitConfig(), overwrite=overwrite)
        return Written(place, len(selection), summary, summary["renamed"])
    return Written(place, len(selection), renamed=subset.renamed if tars else 0)


def _stream(output: str | Path | BinaryIO) -> BinaryIO | None:
    if output == STDOUT:
        out = sys.stdout.buffer
        # With PYTHONUNBUFFERED it is a raw file, which may write less than it is given.
        if isinstance(out, RawIOBase):
            return open(out.fileno(), "wb", closefd=False)
        return out
    return None if isinstance(output, str | Path) else output


def _changed(config: EmitConfig | None) -> dict[str, Any]:
    """Return the settings that differ from their defaults."""
    defaults = asdict(EmitConfig())
    return {n: v for n, v in asdict(config or EmitConfig()).items() if v != defaults[n]}
