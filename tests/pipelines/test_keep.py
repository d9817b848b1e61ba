"""Fields of the samples' json as columns: `clipdre score --keep`."""

import dataclasses
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.config import ReadConfig
from clipdre.encoding import jobs as encoding_jobs
from clipdre.encoding.ingest import open_embeddings
from clipdre.errors import ScoresError, UsageError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import read_manifest
from clipdre.pipelines.measure import measure
from clipdre.pipelines.score import score_embeddings
from clipdre.scorers.prompt_weight import PromptWeight
from clipdre.sql.expressions import POOL
from clipdre.sql.query import ScoreQuery
from tests.helpers import (
    TINY,
    chosen,
    pair,
    png,
    read_failures,
    read_scores,
    tiny_score,
    unmeasured,
    write_tar,
)

pytestmark = pytest.mark.filterwarnings("ignore:no sample has a value of the json field")
FIELDS = ("punsafe", "LANGUAGE", "width", "mixed", "absent", "nested")


def keeping(*fields, **read):
    return dataclasses.replace(TINY, read=ReadConfig(keep=fields, **read))


@pytest.fixture
def pool(tmp_path):
    """Two shards whose samples disagree about the type of a field."""
    folder = tmp_path / "pool"
    folder.mkdir()
    first = {"punsafe": 0, "LANGUAGE": "en", "width": 640, "mixed": 1, "nested": {"a": [1]}}
    second = {"punsafe": 0.25, "LANGUAGE": None, "mixed": "x'; DROP TABLE scores; --"}
    write_tar(folder / "a.tar", [*pair("1", seed=1, **first), *pair("2", seed=2)])
    broken = [("4.png", png(4)), ("4.txt", b"red"), ("4.json", b"{not json")]
    write_tar(folder / "b.tar", [*pair("3", seed=3, **second), *broken])
    write_tar(folder / "c.tar", pair("5", caption=" ", seed=5, **first))  # no row
    return folder


def test_fields_are_typed_columns_over_all_shards(pool, tmp_path):
    seen = "samples of a have members png, txt, json and json fields punsafe, LANGUAGE, width, "
    with pytest.warns(UserWarning, match=f"json field 'absent', so what `keep` adds .*; {seen}"):
        manifest = tiny_score(pool, tmp_path / "s", keeping(*FIELDS))
    table = read_scores(tmp_path / "s", manifest)
    names = ["punsafe", "LANGUAGE", "json_width", "mixed", "absent", "nested"]
    kinds = {"punsafe": pa.float64(), "json_width": pa.int64()}
    files = [ScoreFolder(tmp_path / "s").scores(name) for name in "abc"]
    for schema in map(pq.read_schema, files):
        assert [schema.field(n).type for n in names] == [kinds.get(n, pa.string()) for n in names]
    assert table.select(names).to_pydict() == {
        "punsafe": [0.0, None, 0.25, None],
        "LANGUAGE": ["en", None, None, None],
        "json_width": [640, None, None, None],
        "mixed": ["1", None, "x'; DROP TABLE scores; --", None],
        "absent": [None] * 4,
        "nested": ['{"a": [1]}', None, None, None],
    }
    assert table["width"].to_pylist() == [8] * 4
    assert [f["reason"] for f in read_failures(tmp_path / "s", manifest)] == ["empty_caption"]


def test_they_can_be_selected_by_at_once(pool, tmp_path):
    tiny_score(pool, tmp_path / "s", keeping("punsafe", 'odd "name"', "LANGUAGE"))
    scored = tmp_path / "s", unmeasured(tmp_path / "s")
    assert len(chosen(scored, where="punsafe < 0.1 AND LANGUAGE = 'en'")) == 1
    assert len(chosen(scored, by="punsafe", top=1)) == 1
    assert len(chosen(scored, where='"odd ""name""" IS NULL')) == 4
    described = {c.name: c for c in ScoreQuery(ScoreFolder(scored[0]), scored[1]).described()}
    assert described["punsafe"].meaning == "punsafe of the sample's json"


def test_the_order_of_encoding_decides_nothing(pool, tmp_path, monkeypatch):
    expected = read_scores(tmp_path / "s", tiny_score(pool, tmp_path / "s", keeping(*FIELDS)))
    monkeypatch.setattr(encoding_jobs, "TOGETHER", 0)
    original, calls = encoding_jobs.commit_shard, []

    def stopping(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(encoding_jobs, "commit_shard", stopping)
    with pytest.raises(KeyboardInterrupt):
        tiny_score(pool, tmp_path / "again", keeping(*FIELDS))
    manifest = tiny_score(pool, tmp_path / "again", keeping(*FIELDS))
    found = read_scores(tmp_path / "again", manifest)
    assert found.select(expected.column_names[:18]).equals(
        expected.select(expected.column_names[:18])
    )


def test_another_list_is_another_run(pool, tmp_path):
    tiny_score(pool, tmp_path / "s", keeping("punsafe"))
    for other in ((), ("LANGUAGE",), ("punsafe", "LANGUAGE")):
        with pytest.raises(ScoresError, match="differs in read keep"):
            tiny_score(pool, tmp_path / "s", keeping(*other))
    assert tiny_score(pool, tmp_path / "s", keeping("punsafe")).complete


def test_runs_without_it_are_those_of_before(pool, tmp_path):
    manifest = tiny_score(pool, tmp_path / "s")
    assert "keep" not in manifest.settings["read"]
    with pytest.raises(ScoresError, match=r"differs in read keep"):
        tiny_score(pool, tmp_path / "s", keeping("punsafe"))
    assert read_manifest(tmp_path / "s") == manifest


def test_long_values_are_null(tmp_path):
    write_tar(tmp_path / "a.tar", [*pair("1", x="é" * 40), *pair("2", x="é" * 60)])
    manifest = tiny_score(tmp_path, tmp_path / "s", keeping("x", max_caption_bytes=100))
    assert read_scores(tmp_path / "s", manifest)["x"].to_pylist() == ["é" * 40, None]


def test_hostile_json_gives_text_or_nothing(tmp_path):
    values = ["[" * 900 + "]" * 900, '"\\ud800"', "NaN", "1" + "0" * 400, "-" + "9" * 5000, "{}"]
    members = [
        member
        for n, value in enumerate(values)
        for member in [*pair(str(n), seed=n), (f"{n}.json", b'{"x": %s}' % value.encode())]
    ]
    write_tar(tmp_path / "a.tar", members)
    manifest = tiny_score(tmp_path, tmp_path / "s", keeping("x"))
    found = read_scores(tmp_path / "s", manifest)["x"].to_pylist()
    assert found[1:] == ["\\ud800", "NaN", "1" + "0" * 400, None, "{}"]
    assert found[0] in (None, values[0])


def test_names_that_cannot_be_are_refused_before_anything_is_written(pool, tmp_path):
    with pytest.raises(UsageError, match="whose columns have one name"):
        tiny_score(pool, tmp_path / "s", keeping("a", "A"))
    assert not (tmp_path / "s").exists()


def test_a_measured_column_may_not_have_the_name_of_a_kept_one(pool, tmp_path):
    manifest = tiny_score(pool, tmp_path / "s", keeping("Prompt_Weight"))
    folder, scorer = ScoreFolder(tmp_path / "s"), PromptWeight(("red",))
    with pytest.raises(UsageError, match="column prompt_weight exists already, from clipdre score"):
        measure(folder, manifest, scorer)


def test_metadata_of_embeddings_cannot_be_taken_for_groups(pool, tmp_path):
    tiny_score(pool, tmp_path / "s")
    embeddings = shutil.copytree(tmp_path / "s" / "embeddings", tmp_path / "e")
    for path in (embeddings / "metadata").iterdir():
        table = pq.read_table(path)
        pq.write_table(table.append_column("duplicate_rank", pa.array([7] * len(table))), path)
    source = open_embeddings(embeddings, "l14", 30.0, 0.0)
    manifest = score_embeddings(source, tmp_path / "again", TINY.estimate)
    columns = ScoreQuery(ScoreFolder(tmp_path / "again"), manifest).columns
    assert {"source_duplicate_rank", "duplicate_rank"} <= set(columns)
    assert "duplicate_rank_1" not in columns


def test_the_stamp_of_the_embeddings_is_in_their_metadata(pool, tmp_path):
    tiny_score(pool, tmp_path / "s", keeping("mixed"))
    metadata = tmp_path / "s" / "embeddings" / "metadata" / "metadata_0.parquet"
    stamp = pq.read_schema(metadata).metadata
    assert json.loads(stamp[b"clipdre.kinds"]) == {"mixed": ["int"]}


def test_stored_embeddings_give_the_values_back(pool, tmp_path):
    tiny_score(pool, tmp_path / "s", keeping("LANGUAGE", "punsafe"))
    source = open_embeddings(tmp_path / "s" / "embeddings", "l14", 30.0, 0.0)
    manifest = score_embeddings(source, tmp_path / "again", TINY.estimate)
    query = ScoreQuery(ScoreFolder(tmp_path / "again"), manifest)
    found = query.fetchall(f"SELECT LANGUAGE, punsafe FROM {POOL} ORDER BY shard, key")
    assert found == [("en", 0.0), (None, None), (None, 0.25), (None, None)]
