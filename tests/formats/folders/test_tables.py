import pyarrow.parquet as pq

from clipdre.formats.files.parquet import read_stamp, write_table
from clipdre.formats.folders.tables import MAX_MESSAGE, failures_table, key_hash
from clipdre.formats.tars.samples import Failure, Reason, Stage


def test_key_hash_is_fixed_and_tells_shards_apart():
    assert key_hash("00000", "a") == 10895512595215288988
    assert key_hash("00000", "a") != key_hash("00001", "a")
    assert 0 <= key_hash("\udcff", "\ud800") < 2**64


def test_failures_are_printable_and_bounded(tmp_path):
    failure = Failure("bad\udcffname", 7, Stage.READ, Reason.BROKEN_TAR, "x" * 10_000)
    write_table(failures_table([failure]), tmp_path / "a.parquet", {"fact": "1"})
    (row,) = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert row["key"] == "bad\\udcffname"
    assert (row["stage"], row["reason"], row["offset"]) == ("read", "broken_tar", 7)
    assert len(row["message"]) == MAX_MESSAGE
    assert read_stamp(tmp_path / "a.parquet") == {"fact": "1"}


def test_facts_of_a_damaged_file_are_none(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    assert read_stamp(tmp_path / "a.parquet") == {}
    assert read_stamp(tmp_path / "b.parquet") == {}
