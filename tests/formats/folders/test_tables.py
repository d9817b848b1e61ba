from collections import Counter
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pytest

from clipdre.formats.folders.tables import (
    FAILURE_SCHEMA,
    SAMPLE_FIELDS,
    SAMPLE_SCHEMA,
    failures_table,
    key_hash,
    key_hashes,
    row_digest,
    sample_rows,
    scores_table,
)
from clipdre.formats.tars.samples import Failure, Reason, Stage
from tests.formats.folders.measured import rows_stamp


def test_sample_columns_have_a_meaning_and_a_unit_unless_they_are_text():
    assert SAMPLE_SCHEMA.names == [
        "key",
        "uid",
        "shard",
        "path",
        "offset",
        "nbytes",
        "image_offset",
        "image_nbytes",
        "caption",
        "width",
        "height",
        "key_hash",
    ]
    for column, kind in SAMPLE_FIELDS:
        assert column.meaning
        assert column.better == "neither"
        assert bool(column.unit) == (kind in (pa.int32(), pa.int64()))


def test_rows_of_older_embeddings_lack_what_was_not_recorded():
    stored = pa.table({"key": ["a", "b"], "offset": [0, 512], "extra": [1, 2]})
    rows = sample_rows(stored, "/pool/a.tar")
    assert rows.select(SAMPLE_SCHEMA.names).schema.equals(SAMPLE_SCHEMA)
    assert rows.column_names == [*SAMPLE_SCHEMA.names, "extra"]
    assert rows["path"].to_pylist() == ["/pool/a.tar"] * 2
    assert rows["offset"].to_pylist() == [0, 512]
    assert rows["image_offset"].null_count == 2
    assert sample_rows(stored, None)["path"].null_count == 2


def test_key_hashes_never_change():
    assert key_hash("00000", "a") == 10895512595215288988
    expected = blake2b(b"00000/a", digest_size=8).digest()
    assert key_hash("00000", "a") == int.from_bytes(expected, "little")
    assert key_hash("00000", "a") != key_hash("00001", "a")


def test_keys_need_not_be_valid_unicode():
    assert 0 <= key_hash("\udcff", "\ud800") < 2**64


def test_samples_that_share_a_key_have_different_hashes():
    found = key_hashes("s", ["a", "b", "a", "a"])
    assert found.dtype == np.uint64
    assert found.tolist() == [
        key_hash("s", "a", 0),
        key_hash("s", "b"),
        *(key_hash("s", "a", n) for n in (1, 2)),
    ]
    assert len(set(found.tolist())) == 4


def test_hashes_are_spread_evenly():
    found = key_hashes("s", [str(n) for n in range(20_000)])
    counts = Counter((found >> np.uint64(61)).tolist())
    assert len(counts) == 8
    # Six standard deviations of a binomial count.
    assert all(abs(count - 2500) < 6 * (2500 * 7 / 8) ** 0.5 for count in counts.values())


def test_failures_are_printable_and_bounded():
    failures = [
        Failure("bad\udcffname", 7, Stage.READ, Reason.BROKEN_TAR, "x" * 10_000),
        Failure("k", 9, Stage.DECODE, Reason.EMPTY_CAPTION, "\x1b[31mred\n"),
    ]
    table = failures_table(failures)
    assert table.schema.equals(FAILURE_SCHEMA)
    first, second = table.to_pylist()
    assert first["key"] == "bad\\udcffname"
    assert (first["stage"], first["reason"], first["offset"]) == ("read", "broken_tar", 7)
    assert first["message"] == "x" * 500
    assert (second["stage"], second["reason"]) == ("decode", "empty_caption")
    assert failures_table([]).schema.equals(FAILURE_SCHEMA)


def test_scores_follow_the_samples_as_float32():
    samples = pa.table({"key": ["a", "b"]})
    columns = {"x": np.array([1, 0.1]), "y": np.array([np.nan, np.inf], np.float32)}
    found = scores_table(samples, columns)
    assert found.column_names == ["key", "x", "y"]
    assert found.schema.field("x").type == found.schema.field("y").type == pa.float32()
    assert found["x"].to_pylist() == [1, float(np.float32(0.1))]
    np.testing.assert_array_equal(found["y"].to_numpy(), [np.nan, np.inf])


@pytest.mark.parametrize("hashes", [[], [0], [1, 2, 2**64 - 1], [2, 1, 2**64 - 1]])
def test_row_digests_depend_on_hashes_and_order(hashes):
    found = row_digest(np.array(hashes, np.uint64))
    assert found == rows_stamp(hashes)
    assert found != row_digest(np.array([*hashes, 5], np.uint64))
    if len(set(hashes)) > 1:
        assert found != row_digest(np.array(hashes[::-1], np.uint64))
