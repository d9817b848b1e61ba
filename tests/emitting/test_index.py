import io

import pyarrow.parquet as pq
import pytest

from clipdre.emitting.index import write_index
from clipdre.emitting.relocate import relocated
from clipdre.errors import InputError
from clipdre.formats.folders.tables import SAMPLE_SCHEMA
from tests.emitting.contents import members
from tests.helpers import chosen, pair, rows_of, subset_of, tiny_score, write_tar


def indexed(subset):
    out = io.BytesIO()
    write_index(subset, out)
    return pq.read_table(io.BytesIO(out.getvalue()))


def test_its_spans_are_the_samples(scored, pool):
    subset = subset_of(scored, by="kl_text", top=30)
    found, rows = indexed(subset), rows_of(subset)
    assert found.column_names[:5] == ["shard", "path", "key", "offset", "nbytes"]
    scores = [n for n in subset.selection.query.columns if n not in SAMPLE_SCHEMA.names]
    assert found.column_names[5:] == scores
    assert found.select(scores).equals(rows.select(scores))
    for row in found.to_pylist():
        with open(row["path"], "rb") as tar:
            tar.seek(row["offset"])
            names = [name for name, *_ in members(tar.read(row["nbytes"]))]
        assert names == [f"{row['key']}.{suffix}" for suffix in ("png", "txt", "json")]


def test_names_tars_that_moved_by_their_new_place(scored, pool, tmp_path):
    moved = tmp_path / "00001.tar"
    moved.write_bytes((pool / "00001.tar").read_bytes())
    found = indexed(relocated(chosen(scored, where="shard = '00001'"), [str(moved)]))
    assert set(found["path"].to_pylist()) == {str(moved)}
    assert len(found) == 100


def test_refuses_tars_that_changed_or_are_gone(tmp_path):
    (tmp_path / "pool").mkdir()
    tar = write_tar(tmp_path / "pool" / "a.tar", [*pair("a"), *pair("b")])
    scored = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
    write_tar(tar, pair("a"))
    with pytest.raises(InputError, match=r"a\.tar has changed since it was scored"):
        indexed(subset_of(scored))
    tar.unlink()
    with pytest.raises(InputError, match=r"a\.tar"):
        indexed(subset_of(scored))
