import gzip
import tarfile
from itertools import islice

import pytest

from clipdre.config import ReadConfig
from clipdre.doctor import diagnose
from clipdre.errors import InputError
from clipdre.formats.tars.places import expand_shards
from clipdre.formats.tars.samples import Failure, Reason, Sample
from clipdre.formats.tars.shards import iter_samples
from tests.corpus import extension, padded, raw, signed, special
from tests.helpers import pair, peak_memory, png, read_failures, tiny_score, write_tar


def read(path, **options):
    with path.open("rb") as file:
        return list(iter_samples(file, ReadConfig(**options)))


class TestIterSamples:
    def test_good_samples_have_adjacent_spans(self, tmp_path):
        members = [*pair("a", "one", uid="f" * 32), *pair("b/c", "zwei é"), *pair("d", "three")]
        path = write_tar(tmp_path / "a.tar", members)
        first, second, third = read(path)
        assert (first.key, first.caption, first.uid) == ("a", "one", "f" * 32)
        assert (second.key, second.caption, second.uid) == ("b/c", "zwei é", None)
        assert first.offset == 0
        assert second.offset == first.nbytes
        assert third.offset == second.offset + second.nbytes
        assert first.image == png(0)

    def test_caption_can_be_a_json_field(self, tmp_path):
        path = write_tar(tmp_path / "a.tar", [*pair("a", "txt", title="json"), *pair("b", x=1)])
        sample, failure = read(path, caption_field="title")
        assert sample.caption == "json"
        assert (failure.key, failure.reason) == ("b", Reason.MISSING_CAPTION)

    @pytest.mark.parametrize(
        ("members", "reason"),
        [
            ([("a.txt", b"x")], Reason.MISSING_IMAGE),
            ([("a.svg", b"<svg/>"), ("a.txt", b"x")], Reason.MISSING_IMAGE),
            ([("a.png", png())], Reason.MISSING_CAPTION),
            ([("a.png", png()), ("a.txt", b"")], Reason.EMPTY_CAPTION),
            ([("a.png", png()), ("a.txt", b" \n\t")], Reason.EMPTY_CAPTION),
            ([("a.png", png()), ("a.txt", b"\xff\xfe")], Reason.INVALID_CAPTION),
            ([("a.png", png()), ("a.jpg", png()), ("a.txt", b"x")], Reason.DUPLICATE_MEMBER),
            ([("a.png", png()), ("a.txt", b"x"), ("a.txt", b"y")], Reason.DUPLICATE_MEMBER),
            ([("a.png", png()), ("a.txt", b"x" * 5000)], Reason.MEMBER_TOO_LARGE),
        ],
    )
    def test_bad_sample_is_a_failure_between_good_ones(self, tmp_path, members, reason):
        path = write_tar(tmp_path / "a.tar", [*pair("0"), *members, *pair("z")])
        before, bad, after = read(path, max_member_bytes=4000)
        assert isinstance(before, Sample)
        assert isinstance(after, Sample)
        assert isinstance(bad, Failure)
        assert (bad.key, bad.reason) == ("a", reason)
        assert bad.offset == before.nbytes

    def test_suffixes_ignore_case_and_foreign_members_are_skipped(self, tmp_path):
        members = [("a.PNG", png()), ("a.TXT", b"x"), ("a.npy", b"\x93NUMPY"), ("a.cls", b"1")]
        (sample,) = read(write_tar(tmp_path / "a.tar", members))
        assert (sample.key, sample.caption) == ("a", "x")

    def test_damaged_json_loses_only_the_uid(self, tmp_path):
        for n, content in enumerate([b"{", b"[1]", b"\xff", b"[" * 100_000, b'{"uid": 7}']):
            path = write_tar(tmp_path / f"{n}.tar", [*pair("a"), ("a.json", content)])
            (sample,) = read(path)
            assert sample.uid is None

    def test_lone_surrogates_in_json_are_escaped(self, tmp_path):
        path = write_tar(tmp_path / "a.tar", [*pair("a"), ("a.json", b'{"t": "x\\ud800y"}')])
        (sample,) = read(path, caption_field="t")
        assert sample.caption.encode("utf-8") == b"x\\ud800y"

    def test_tar_that_ends_in_a_sample_loses_that_sample(self, tmp_path):
        path = write_tar(tmp_path / "a.tar", [*pair("a"), *pair("b")])
        good = read(path)[0]
        path.write_bytes(path.read_bytes()[: good.nbytes + 600])
        sample, failure = read(path)
        assert sample == good
        assert (failure.key, failure.reason, failure.offset) == (
            "b",
            Reason.BROKEN_TAR,
            good.nbytes,
        )

    def test_tar_that_ends_in_garbage_keeps_all_samples_before(self, tmp_path):
        path = write_tar(tmp_path / "a.tar", [*pair("a"), *pair("b")])
        good = read(path)[0]
        path.write_bytes(path.read_bytes()[: good.nbytes] + b"\x99" * 2048)
        sample, failure = read(path)
        assert sample == good
        assert (failure.key, failure.reason, failure.offset) == ("", Reason.BROKEN_TAR, good.nbytes)


READ = """
import sys
from clipdre.config import ReadConfig
from clipdre.formats.tars.places import expand_shards
from clipdre.formats.tars.shards import read_samples
before = peak()
print(len(list(read_samples(sys.argv[1], ReadConfig()))), peak() - before)
"""


@pytest.mark.parametrize("version", ["1.0", "old"])
def test_maps_of_sparse_files_take_no_memory(tmp_path, version):
    """A few kB of gzip: 20 MB of map are 10 million numbers."""
    nbytes = 20 << 20
    if version == "1.0":
        fields = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
        content = b"99999999\n" + b"1\n" * (nbytes // 2)
        header = extension(fields) + special("b.txt", tarfile.REGTYPE, size=len(content)).tobuf()
        sparse = header + padded(content)
    else:
        header = special("b.txt", tarfile.GNUTYPE_SPARSE).tobuf()
        number = b"0" * 10 + b"1\0"
        block = number * 42 + b"\1" + b"\0" * 7
        sparse = signed(header[:482] + b"\1" + header[483:]) + block * (nbytes // 512)
        sparse += b"\0" * 512
    parts = [raw(pair("a")), raw([("b.png", png())]), sparse, raw(pair("c")), b"\0" * 1024]
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(b"".join(parts))
    samples, used = peak_memory(READ, tmp_path / "a.tar.gz")
    assert samples == 3
    assert used < 10 << 20


@pytest.mark.parametrize("error", [ValueError, MemoryError, ZeroDivisionError, InputError])
def test_whatever_one_shard_raises_the_others_are_read(tmp_path, monkeypatch, error):
    """In `score` and `doctor` alike; samples read before the error are kept."""
    (tmp_path / "pool").mkdir()
    for name in "abc":
        path = tmp_path / "pool" / f"{name}.tar"
        write_tar(path, [*pair(f"{name}0"), *pair(f"{name}1", seed=1)])

    def raising(file, config):
        yield from islice(iter_samples(file, config), 1 if file.name.endswith("b.tar") else 9)
        if file.name.endswith("b.tar"):
            raise error("no reader can foresee this")

    monkeypatch.setattr("clipdre.formats.tars.shards.iter_samples", raising)
    manifest = tiny_score(tmp_path / "pool", tmp_path / "s")
    assert [shard.rows for shard in manifest.shards] == [2, 1, 2]
    assert manifest.shards[1].failures == {"unreadable_shard": 1}
    (failure,) = read_failures(tmp_path / "s", manifest)
    assert "no reader can foresee this" in failure["message"]
    found = diagnose(expand_shards([str(tmp_path / "pool")]), ReadConfig())
    assert (found.samples, found.good, list(found.findings)) == (6, 5, ["unreadable_shard"])
    monkeypatch.undo()
    assert tiny_score(tmp_path / "pool", tmp_path / "s").rows == 6
