"""A coverage-guided fuzzer for the tar reader and the caption path (`make fuzz`).

python scripts/fuzz_shards.py -max_total_time=300

For any bytes, reading ends without an error, samples do not overlap, and the span of a sample read
alone gives the same sample. Requires `pip install atheris`.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["clipdre", "tarfile"]):
    from clipdre.config import ReadConfig
    from clipdre.formats.folders.tables import failures_table
    from clipdre.formats.tars.samples import Failure, Note, Sample
    from clipdre.formats.tars.shards import iter_samples
    from tests.corpus import KINDS

CONFIGS = (
    ReadConfig(max_member_bytes=1 << 20),
    ReadConfig(caption_field="caption", max_json_bytes=1 << 16),
)


def check(data: bytes) -> None:
    """Check the properties above on one input."""
    for config in CONFIGS:
        end = 0
        failures = []
        for record in iter_samples(io.BytesIO(data), config):
            if isinstance(record, Note):
                continue
            if isinstance(record, Failure):
                failures.append(record)
                continue
            assert record.offset >= end, "two samples share bytes"
            end = record.offset + record.nbytes
            assert end <= len(data), "a sample reaches past the end"
            record.caption.encode("utf-8")
            alone = list(iter_samples(io.BytesIO(data[record.offset : end]), config))
            samples = [same(one, record) for one in alone if not isinstance(one, Note)]
            assert samples == [True], "the span is another sample"
        failures_table(failures)


def same(one: Sample | Failure | Note, other: Sample) -> bool:
    """Whether two samples have the same content, regardless of position."""
    return isinstance(one, Sample) and (one.key, one.image, one.caption, one.uid) == (
        other.key,
        other.image,
        other.caption,
        other.uid,
    )


def main() -> None:
    """Fuzz, starting from the corpus of damaged archives."""
    folder = None
    if not any(not argument.startswith("-") for argument in sys.argv[1:]):
        folder = tempfile.TemporaryDirectory()
        for n, kind in enumerate(KINDS):
            if len(kind.data) < 1 << 16:
                (Path(folder.name) / str(n)).write_bytes(kind.data)
        sys.argv.append(folder.name)
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
