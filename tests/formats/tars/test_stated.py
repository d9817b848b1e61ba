import gzip

import fsspec
import pytest

from clipdre.config import ReadConfig
from clipdre.formats.tars.samples import Note, NoteKind
from clipdre.formats.tars.shards import read_samples
from clipdre.formats.tars.stated import Stated, stated_count
from tests.helpers import pair, write_tar


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a_stats.json": b'{"successes": 7}'}, Stated(7, "a_stats.json")),
        ({"sizes.json": b'{"a.tar": 8, "b.tar": 1}'}, Stated(8, "sizes.json")),
        (
            {"a_stats.json": b'{"successes": 7}', "sizes.json": b'{"a.tar": 8}'},
            Stated(7, "a_stats.json"),
        ),
        ({"a_stats.json": b"{", "sizes.json": b'{"a.tar": 8}'}, Stated(8, "sizes.json")),
        ({"a_stats.json": gzip.compress(b"{}" * 99)[:20]}, None),
        ({"a_stats.json": b"[" * 100_000, "sizes.json": b"[1]"}, None),
        ({"a_stats.json": b'{"successes": "7"}', "sizes.json": b'{"b.tar": 8}'}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("remote", [False, True])
def test_counts_beside_a_shard_are_read_if_they_can_be(files, expected, remote, tmp_path):
    folder = f"memory://{tmp_path.name}" if remote else str(tmp_path)
    for name, content in files.items():
        with fsspec.open(f"{folder}/{name}", "wb") as file:
            file.write(content)
    assert stated_count(f"{folder}/a.tar", "a") == expected


def test_a_shortfall_is_noted(tmp_path):
    """A sample that fails is there; a sample that is cut is not."""
    members = [*pair("a"), *pair("b"), ("c.png", b""), *pair("d")]
    path = write_tar(tmp_path / "x.tar", members)

    def shortfalls():
        found = read_samples(str(path), ReadConfig())
        return [(r.kind, r.count, r.message) for r in found if isinstance(r, Note)]

    for count in (0, 4):
        (tmp_path / "x_stats.json").write_text(f'{{"successes": {count}}}')
        assert shortfalls() == []
    path.write_bytes(path.read_bytes()[: 2 * 2048 + 512 + 700])
    message = "the tar holds 3 of 4 samples that x_stats.json counts; copy or download it again"
    assert shortfalls() == [(NoteKind.FEWER_SAMPLES, 1, message)]
