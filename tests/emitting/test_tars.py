import gzip
import io
import os
import tarfile
from collections import Counter

import pyarrow as pa
import pytest
import webdataset

from clipdre.config import EmitConfig
from clipdre.emitting.emit import write_tar_folder
from clipdre.emitting.tars import shuffled_bytes, unique_keys, write_tar
from clipdre.pipelines.score import score
from tests.corpus import apple_double, extension, raw
from tests.emitting.contents import SUFFIXES, expected_members, members
from tests.helpers import TINY, pair, rows_of, subset_of, tiny_score
from tests.helpers import write_tar as write_source


def test_writes_the_same_tar_to_any_file(pool, tmp_path):
    data = (pool / "00000.tar").read_bytes()
    # Cut before the archive's end: the samples of a tar, in pieces of any size.
    content = data.rstrip(b"\0")
    content = content.ljust(-(-len(content) // 512) * 512, b"\0")
    pieces = [content[n : n + 5000] for n in range(0, len(content), 5000)]
    stream = io.BytesIO()
    with open(tmp_path / "a.tar", "xb", buffering=0) as raw, open(tmp_path / "b.tar", "xb") as file:
        written = [write_tar(out, iter(pieces)) for out in (raw, file, stream)]
    assert written == [len(content)] * 3
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert stream.getvalue() == (tmp_path / "b.tar").read_bytes()
    assert members(tmp_path / "a.tar") == members(pool / "00000.tar")
    assert len(stream.getvalue()) % 10240 == 0


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("s", "a"), ("s", "b"), ("t", "c")], ["a", "b", "c"]),
        ([("s", "a"), ("s", "b"), ("t", "a")], ["s-a", "b", "t-a"]),
        ([("s", "a"), ("s", "a"), ("t", "b")], ["s-a-0", "s-a-1", "b"]),
        ([("s.0", "d.e/a"), ("t", "d.e/a")], ["d.e/s_0-a", "d.e/t-a"]),
        # New keys that are taken already get the row too, or a dash.
        ([("s", "a"), ("t", "a"), ("s", "s-a")], ["s-a-0", "t-a", "s-a"]),
        ([("s", "a"), ("t", "a"), ("t", "s-a"), ("t", "s-a-0")], ["s-a-0-", "t-a", "s-a", "s-a-0"]),
    ],
)
def test_makes_shared_keys_unique(rows, expected):
    shards, keys = zip(*rows, strict=True)
    table = pa.table({"shard": shards, "key": keys, "file_row_number": range(len(rows))})
    counts, places = Counter(keys), Counter(rows)
    collisions = {
        key: 1 + any(places[shard, key] > 1 for shard in shards) for key in keys if counts[key] > 1
    }
    assert unique_keys(table, collisions) == expected


def test_shuffled_samples_come_in_the_order_of_the_rows(scored, pool):
    subset = subset_of(scored, by="log_ratio", top=40)
    table = pa.concat_tables([rows_of(subset).slice(25), rows_of(subset).slice(0, 25)])
    found = shuffled_bytes(subset.sources(table), table, table["key"].to_pylist(), False)
    out = io.BytesIO()
    write_tar(out, found)
    straight = expected_members(subset, pool)
    cut = 25 * len(SUFFIXES)
    assert members(out.getvalue()) == straight[cut:] + straight[:cut]


@pytest.mark.parametrize("shuffle", [None, 3])
def test_reads_compressed_sources(pool, scored, tmp_path, shuffle):
    (tmp_path / "pool").mkdir()
    for path in pool.glob("*.tar"):
        with gzip.open(tmp_path / "pool" / f"{path.name}.gz", "wb") as file:
            file.write(path.read_bytes())
    zipped = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
    assert zipped[1].rows == 300
    config = EmitConfig(shard_size=40, shuffle_seed=shuffle)
    for name, source in (("plain", scored), ("zipped", zipped)):
        write_tar_folder(subset_of(source, by="log_ratio", top=100), tmp_path / name, config)
    found, expected = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.tar")}
        for name in ("zipped", "plain")
    )
    assert len(found) == 3
    assert found == expected


def test_reads_only_ranges_of_remote_sources(pool, scored, tmp_path, store, monkeypatch):
    for path in pool.glob("*.tar"):
        store.pipe(f"/remote/{path.name}", path.read_bytes())
    urls = sorted(f"memory://remote/{path.name}" for path in pool.glob("*.tar"))
    remote = tmp_path / "s", score(urls, tmp_path / "s", TINY)
    asked = []
    cat_ranges = type(store).cat_ranges

    def counting(self, paths, starts, ends, **options):
        asked.extend(end - start for start, end in zip(starts, ends, strict=True))
        return cat_ranges(self, paths, starts, ends, **options)

    monkeypatch.setattr(type(store), "cat_ranges", counting)
    write_tar_folder(subset_of(remote, by="log_ratio", top=9), tmp_path / "a", EmitConfig())
    write_tar_folder(subset_of(scored, by="log_ratio", top=9), tmp_path / "b", EmitConfig())
    name = "00000000.tar"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert 0 < sum(asked) < sum(len(store.cat(url)) for url in urls)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset does not close its tars
def test_webdataset_reads_the_samples_of_a_tar_from_macos(tmp_path):
    """In a folder, it would take an AppleDouble member for the end of a sample."""
    members = [m for n in range(3) for m in pair(f"d/{n}", "red", n)]
    members[1:1] = [("__meta__", b"{}")]
    (tmp_path / "pool").mkdir()
    write_source(tmp_path / "pool" / "a.tar", apple_double(members))
    scored = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
    assert (scored[1].rows, scored[1].samples) == (3, 3)
    write_tar_folder(subset_of(scored), tmp_path / "kept", EmitConfig())
    tar = str(tmp_path / "kept" / "00000000.tar")
    found = list(webdataset.WebDataset(tar, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in found] == ["d/0", "d/1", "d/2"]
    assert [sample["txt"] for sample in found] == [b"red"] * 3
    assert all({"png", "txt"} == {k for k in sample if k[0] != "_"} for sample in found)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset does not close its tars
@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("field", ["path", "size", "comment"])
def test_global_headers_reach_no_other_member(tmp_path, field, before):
    """Before a sample, within it, and between samples: readers see all that was kept."""
    header = extension({field: "1.txt" if field == "path" else "3"}, tarfile.XGLTYPE)
    parts = [raw([member]) for n in range(3) for member in pair(f"{n}", "red", n)]
    parts.insert(2 + before, header)
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.tar").write_bytes(b"".join(parts) + b"\0" * 1024)
    write_source(tmp_path / "pool" / "b.tar", [*pair("2", "blue"), *pair("3", "blue")])
    scored = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
    split = before == 1 and field != "comment"  # a sample with a misleading header in it is lost
    assert (scored[1].rows, scored[1].samples) == (5 - split, 5 + (field != "comment"))
    write_tar_folder(subset_of(scored), tmp_path / "kept", EmitConfig())
    tar = tmp_path / "kept" / "00000000.tar"
    assert b"PaxHeader" not in tar.read_bytes()
    found = list(webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False))
    expected = {"0": b"red", "1": b"red", "a-2": b"red", "b-2": b"blue", "3": b"blue"}
    if split:
        del expected["1"]
    assert {sample["__key__"]: sample["txt"] for sample in found} == expected


def test_shards_whose_names_are_not_utf8_are_scored_and_emitted(tmp_path):
    (tmp_path / "pool").mkdir()
    for n, name in enumerate(("a", os.fsdecode(b"caf\xe9"), "z")):
        write_source(tmp_path / "pool" / f"{name}.tar", [*pair(f"{n}", "red", n), *pair("b", "x")])
    scored = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
    assert [shard.name for shard in scored[1].shards] == ["a", "caf\\udce9", "z"]
    assert (scored[1].rows, scored[1].samples) == (6, 6)
    write_tar_folder(subset_of(scored), tmp_path / "kept", EmitConfig())
    found = [name for name, *_ in members(tmp_path / "kept" / "00000000.tar")]
    assert found[6:8] == ["caf\\udce9-b.png", "caf\\udce9-b.txt"]
