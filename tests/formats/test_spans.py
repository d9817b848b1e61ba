import io
import os
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdre.errors import InputError
from clipdre.formats.spans import RECORD, Source, coalesced, copy_spans, end_archive
from clipdre.formats.storage import identify


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=20))
def test_coalesced_spans_cover_the_same_bytes_and_never_touch(gaps_and_sizes):
    spans, position = [], 0
    for gap, size in gaps_and_sizes:
        spans.append((position + gap, size))
        position += gap + size
    joined = list(coalesced(spans))
    covered = [byte for offset, size in spans for byte in range(offset, offset + size)]
    assert [byte for offset, size in joined for byte in range(offset, offset + size)] == covered
    ends = [offset + size for offset, size in joined]
    assert all(end < start for end, (start, _) in zip(ends, joined[1:], strict=False))


def test_copied_spans_are_the_bytes():
    out = io.BytesIO()
    source = io.BytesIO(bytes(range(100)))
    assert copy_spans(source, [(10, 5), (15, 5), (50, 2)], out) == 12
    assert out.getvalue() == bytes([*range(10, 20), 50, 51])


def test_a_source_that_ends_early_is_refused():
    with pytest.raises(InputError, match="ends before byte 120"):
        copy_spans(io.BytesIO(b"x" * 100), [(90, 30)], io.BytesIO())


@pytest.mark.parametrize("blocks", [0, 1, 17, 18, 19, 20])
def test_an_ended_archive_is_whole_records_and_reads_back(blocks):
    out = io.BytesIO()
    if blocks:
        info = tarfile.TarInfo("a")
        info.size = (blocks - 1) * 512
        out.write(info.tobuf(tarfile.USTAR_FORMAT) + b"x" * info.size)
    end_archive(out, blocks * 512)
    assert len(out.getvalue()) % RECORD == 0
    assert len(out.getvalue()) >= (blocks + 2) * 512
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        assert len(tar.getmembers()) == bool(blocks)


def test_a_source_that_changed_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"x" * 100)
    identity = identify(str(path))
    source = Source(str(path), identity.nbytes, identity.modified)
    with source.opened() as file:
        assert file.read(1) == b"x"
    os.utime(path, ns=(5, 5))
    with pytest.raises(InputError, match="has changed since it was scored"), source.opened():
        pass
