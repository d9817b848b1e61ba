"""A coverage-guided fuzzer for the tar reader and the caption path (`make fuzz`).

python scripts/fuzz_shards.py -max_total_time=300

For any bytes, reading ends without an error, samples do not overlap, the span of a sample read
alone gives the same sample, and tarfile finds all samples in a tar of them. Headers are tried as
they are, and again with the checksums that they should have, which mutations rarely hit. Requires
`pip install atheris`.
"""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
from itertools import groupby
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["clipdre", "tarfile"]):
    from clipdre.config import ReadConfig
    from clipdre.formats.folders.tables import failures_table
    from clipdre.formats.tars.samples import Failure, Note, Sample, printable
    from clipdre.formats.tars.shards import iter_samples
    from clipdre.formats.tars.spans import checked, end_archive, renamed
    from clipdre.formats.tars.tar import split_name
    from tests.corpus import KINDS, signed_blocks

CONFIGS = (
    ReadConfig(max_member_bytes=1 << 20),
    ReadConfig(caption_field="caption", max_json_bytes=1 << 16),
)


def check(data: bytes) -> None:
    """Check one input, as it is and with right checksums."""
    for given in {data, signed_blocks(data)}:
        for config in CONFIGS:
            check_reading(given, config)


def check_reading(data: bytes, config: ReadConfig) -> None:
    """Check the properties above."""
    end = 0
    failures, kept, keys = [], [], []
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
        span = data[record.offset : end]
        alone = list(iter_samples(io.BytesIO(span), config))
        samples = [same(one, record) for one in alone if not isinstance(one, Note)]
        assert samples == [True], "the span is another sample"
        keys.append(printable(record.key))
        kept.append(checked(memoryview(span), keys[-1], "a"))
    failures_table(failures)
    check_emitted(kept, keys)
    new = [f"k{n}" for n in range(len(kept))]
    check_emitted([renamed(span, key, "a") for span, key in zip(kept, new, strict=True)], new)


def check_emitted(spans: list[memoryview | bytes], keys: list[str]) -> None:
    """Check that tarfile finds the samples in a tar of them."""
    out = io.BytesIO(b"".join(spans))
    out.seek(0, io.SEEK_END)
    end_archive(out, out.tell())
    out.seek(0)
    with tarfile.open(fileobj=out, mode="r:") as tar:
        found = [printable(split_name(member.name)[0]) for member in tar]
    assert [k for k, _ in groupby(found)] == [k for k, _ in groupby(keys)], "tarfile finds others"


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
