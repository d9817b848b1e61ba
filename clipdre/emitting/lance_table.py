"""A selection as a Lance table: all columns, and each image as a blob that stays in its tar."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipdre.emitting.place import ELSEWHERE, OVERWRITE, is_part_of_scores
from clipdre.emitting.relocate import relocated
from clipdre.emitting.subset import Subset
from clipdre.errors import ClipdreError, OutputError, ScoresError
from clipdre.formats.files.parquet import SCORE_AGAIN
from clipdre.formats.files.remote import is_remote, redacted
from clipdre.formats.files.storage import real, unescaped_path
from clipdre.selecting.select import Selection
from clipdre.sql.expressions import FILE, ROW
from clipdre.words import count, one_line

IMAGE = "image"
# The first version of Lance's files that has ranges of other files as values.
FILES_VERSION = "2.2"
# What every table has, and what a killed run leaves behind.
VERSIONS, PARTS = "_versions", {"data", "_transactions"}
# What Lance's messages say about its own source.
INTERNAL = re.compile(r"^LanceError\(\w+\): |, \S+\.rs:\d+:\d+$")


def write_lance(
    selection: Selection,
    output: Path,
    *,
    shards: Sequence[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a Lance table of the selected rows, with the blob column ``image``.

    Only the place of each image is stored, so the tars must stay where they are. Lance commits a
    table last of all: a killed run leaves no table, or the old one.

    Parameters
    ----------
    shards : sequence of str or None
        Paths and URLs of the tars, if they are not where they were scored.
    overwrite : bool
        Replace a Lance table.

    Raises
    ------
    ClipdreError
        If the package ``pylance`` is not installed.
    OutputError
        If nothing is selected, `output` exists or cannot be written, or no image can be read in
        place.
    ScoresError
        If the scores are of a clipdre that did not record where images are.
    InputError
        If a tar is missing or has changed since it was scored, or `shards` lack a sample.
    """
    lance = _lance()
    if not len(selection):
        raise OutputError("nothing is kept, so there is nothing to write", "loosen the selection")
    _check_place(output, overwrite)
    _check_images(selection)
    subset = relocated(selection, shards) if shards else Subset(selection)
    subset.check()
    batches = _Batches(subset, lance)
    try:
        lance.write_dataset(
            pa.RecordBatchReader.from_batches(batches.schema, batches),
            str(output),
            mode="overwrite" if (output / VERSIONS).is_dir() else "create",
            data_storage_version=FILES_VERSION,
            allow_external_blob_outside_bases=True,
        )
    except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
        if batches.error is not None:
            raise batches.error from error
        reason = INTERNAL.sub("", one_line(error))
        cure = "fix this, or choose another `output`"
        raise OutputError(f"cannot write {output}: {reason}", cure) from error


def _lance() -> Any:
    try:
        import lance  # noqa: PLC0415 (an extra)
    except ImportError as error:
        problem = "a Lance table needs the package pylance"
        raise ClipdreError(problem, "run pip install 'clipdre[lance]'") from error
    return lance


def _check_place(output: Path, overwrite: bool) -> None:
    """Refuse anything but a new folder, a Lance table if `overwrite`, or the start of one."""
    if is_part_of_scores(real(output)):
        raise OutputError(f"{output} is part of a score folder", ELSEWHERE)
    if not output.exists():
        return
    names = {path.name for path in output.iterdir()} if output.is_dir() else {output.name}
    if VERSIONS not in names and names - PARTS:
        raise OutputError(f"{output} exists and is not a Lance table", ELSEWHERE)
    if VERSIONS in names and not overwrite:
        raise OutputError(f"{output} exists", OVERWRITE)


def _check_images(selection: Selection) -> None:
    """Refuse rows without any image that can be read in place; warn if some have none."""
    query = selection.query
    if "image_offset" not in query.columns:
        problem = f"the scores in {query.folder.path} do not say where images are"
        raise ScoresError(problem, SCORE_AGAIN)
    if IMAGE in query.columns:
        raise OutputError(f"the scores have a column {IMAGE} already", "rename it")
    (known,) = selection.rows.wide().one("count(image_offset)")
    rows = len(selection)
    if not known:
        raise OutputError(
            "no image can be read in place: the tars are compressed, or there are none",
            "decompress the tars and score them again, or write another format with 'filter'",
        )
    if known < rows:
        warnings.warn(
            f"{count(rows - known, 'row')} of {rows:,} have no image in the table, because their "
            "tar is compressed or it is not recorded where images are in it",
            stacklevel=3,
        )


class _Batches:
    """The rows of a subset with their images; keeps an error that Lance would reword."""

    def __init__(self, subset: Subset, lance: Any) -> None:
        self._subset, self._lance = subset, lance
        self._found = subset.batches()
        self._first = self._with_images(next(self._found))
        self.schema = self._first.schema
        self.error: ClipdreError | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        yield self._first
        try:
            for batch in self._found:
                yield self._with_images(batch)
        except ClipdreError as error:
            self.error = error
            raise

    def _with_images(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        places = (batch[name].to_pylist() for name in (FILE, "image_offset", "image_nbytes"))
        blobs = [
            self._lance.Blob.from_uri(self._uri(index), offset, nbytes) if nbytes else None
            for index, offset, nbytes in zip(*places, strict=True)
        ]
        rows = pa.Table.from_batches([batch.drop_columns([FILE, ROW])])
        table = rows.append_column(self._lance.blob_field(IMAGE), self._lance.blob_array(blobs))
        return table.to_batches()[0]

    def _uri(self, index: int) -> str:
        url = self._subset.source(index).url
        return redacted(url) if is_remote(url) else unescaped_path(url).absolute().as_uri()
