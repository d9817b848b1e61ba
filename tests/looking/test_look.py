import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.config import EngineConfig, LookConfig
from clipdre.encoding.ingest import open_embeddings
from clipdre.errors import SelectionError, UsageError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.looking.content import content, tables
from clipdre.looking.look import MOST_SELECTIONS, collect
from clipdre.looking.page import render
from clipdre.pipelines.score import score_embeddings
from clipdre.selecting.rules import Amount, Rule, Step
from clipdre.selecting.select import select
from clipdre.sql.query import ScoreQuery
from tests.clusters_of_ray import on, with_ray
from tests.helpers import TINY, pair, tiny_score, unmeasured, write_tar


def looked(folder, manifest, config=None, shards=None, **rules):
    query = ScoreQuery(ScoreFolder(folder), manifest)
    selections = {name: select(query, rule) for name, rule in rules.items()}
    return collect(query, selections, config or LookConfig(), shards)


def test_content_is_what_the_scores_say(scored):
    view = looked(*scored, best=Rule((Step(by="log_ratio", top=Amount(0.1)),)))
    found = content(view)
    assert found["pool"] == 300
    assert found["selections"] == [{"name": "best", "kept": 30}]
    (cut,) = next(axis["cuts"] for axis in found["axes"] if axis["label"] == "log_ratio")
    assert cut["value"] == view.selections["best"].threshold
    table = select(view.query, Rule()).table()
    at = [axis["label"] for axis in found["axes"]].index("kl_text")
    for row, place in zip(found["rows"], view.rows.places.tolist(), strict=True):
        assert row["key"] == table["key"][place].as_py()
        assert row["values"][at] == pytest.approx(table["kl_text"][place].as_py(), rel=1e-4)
    assert set(view.samples.tolist()) <= set(view.images)
    assert all(row["image"] for n, row in enumerate(found["rows"]) if n in found["samples"])


def test_the_page_is_the_same_each_time(scored):
    rule = Rule((Step(by="log_ratio", top=Amount(0.1)),))
    assert render(looked(*scored, best=rule)) == render(looked(*scored, best=rule))


@pytest.mark.parametrize("most", [0, 25])
def test_there_are_no_more_thumbnails_than_asked_for(scored, most):
    view = looked(*scored, LookConfig(thumbnails=most))
    assert len(view.samples) <= max(most, 10)  # the matrix has ten of its own
    assert bool(view.images) == bool(most)


def test_columns_that_are_asked_for_come_after_the_main_scores(scored):
    labels = [h.axis.label for h in looked(*scored, LookConfig(columns=("dw_text",))).histograms]
    assert labels[:2] == ["log_ratio", "similarity"]
    assert labels.index("dw_text") < labels.index("log_ratio_image")
    for name, message in (("dw_txt", "there is no column dw_txt"), ("caption", "has type VARCHAR")):
        with pytest.raises(SelectionError, match=message):
            looked(*scored, LookConfig(columns=(name,)))
    with pytest.raises(SelectionError, match="cannot use `blur_by` 'log_ratio'"):
        looked(*scored, LookConfig(blur_by="log_ratio"))
    blurred = looked(*scored, LookConfig(blur_by="draw(0.5)")).blurred
    assert 0 < blurred.sum() < len(blurred)


def test_too_many_selections_and_those_of_other_scores_are_refused(scored, tmp_path):
    with pytest.raises(UsageError, match="at most 4 selections"):
        looked(*scored, **{str(n): Rule() for n in range(MOST_SELECTIONS + 1)})
    shutil.copytree(scored[0], tmp_path / "copy")
    other = select(ScoreQuery(ScoreFolder(tmp_path / "copy"), scored[1]), Rule())
    with pytest.raises(UsageError, match="of other scores"):
        collect(ScoreQuery(ScoreFolder(scored[0]), scored[1]), {"a": other}, LookConfig())


class TestWithoutImages:
    def test_moved_shards(self, pool, tmp_path):
        shutil.copytree(pool, tmp_path / "pool")
        tiny_score(tmp_path / "pool", tmp_path / "s")
        manifest = unmeasured(tmp_path / "s")
        (tmp_path / "pool").rename(tmp_path / "moved")
        view = looked(tmp_path / "s", manifest)
        assert not view.images
        assert "cannot be opened" in view.problem or "No such file" in view.problem
        html = render(view).html
        assert "images are missing" in html
        moved = [str(path) for path in (tmp_path / "moved").glob("*.tar")]
        view = looked(tmp_path / "s", manifest, shards=moved)
        assert set(view.samples.tolist()) <= set(view.images)
        assert view.problem == ""

    def test_one_shard_of_several(self, pool, tmp_path):
        shutil.copytree(pool, tmp_path / "pool")
        tiny_score(tmp_path / "pool", tmp_path / "s")
        (tmp_path / "pool" / "00001.tar").unlink()
        view = looked(tmp_path / "s", unmeasured(tmp_path / "s"))
        shards = set(view.samples // 100)
        assert shards == {0, 1, 2}
        assert {place // 100 for place in view.images} == {0, 2}
        assert "00001.tar" in view.problem

    @with_ray
    def test_a_cluster_makes_the_same(self, cluster, pool, tmp_path):
        shutil.copytree(pool, tmp_path / "pool")
        tiny_score(tmp_path / "pool", tmp_path / "s")
        (tmp_path / "pool" / "00001.tar").unlink()
        found = [
            looked(tmp_path / "s", unmeasured(tmp_path / "s"), LookConfig(engine=engine))
            for engine in (EngineConfig(), on(cluster))
        ]
        assert found[0].images == found[1].images
        assert found[0].images
        assert found[0].problem == found[1].problem
        assert "00001.tar" in found[0].problem

    def test_one_of_the_moved_shards_is_gone(self, pool, tmp_path):
        shutil.copytree(pool, tmp_path / "pool")
        tiny_score(tmp_path / "pool", tmp_path / "s")
        moved = (tmp_path / "pool").rename(tmp_path / "moved")
        (moved / "00001.tar").unlink()
        shards = sorted(map(str, moved.glob("*.tar")))
        view = looked(tmp_path / "s", unmeasured(tmp_path / "s"), shards=shards)
        assert {place // 100 for place in view.images} == {0, 2}
        assert "00001.tar" in view.problem

    def test_images_that_have_changed(self, tmp_path):
        write_tar(tmp_path / "x.tar", [*pair("a", "red", 1), *pair("b", "blue", 2)])
        tiny_score(tmp_path, tmp_path / "s")
        changed = bytearray((tmp_path / "x.tar").read_bytes())
        with tarfile.open(tmp_path / "x.tar") as tar:
            member = next(m for m in tar if m.name.startswith("a.") and m.name != "a.txt")
        changed[member.offset_data : member.offset_data + member.size] = bytes(member.size)
        (tmp_path / "x.tar").write_bytes(changed)
        shards = [str(tmp_path / "x.tar")]
        view = looked(tmp_path / "s", unmeasured(tmp_path / "s"), shards=shards)
        assert sorted(view.images) == [1]
        assert view.problem.startswith("1 image cannot be read")

    def test_scores_of_embeddings(self, scored, tmp_path):
        source = open_embeddings(scored[0] / "embeddings", "l14", 30.0, 0.0)
        manifest = score_embeddings(source, tmp_path / "s", TINY.estimate)
        view = looked(tmp_path / "s", unmeasured(tmp_path / "s"))
        assert not manifest.has_tars
        assert not view.images
        assert "made from embeddings" in view.problem
        assert content(view)["rows"]
        assert render(view).html


def test_without_embeddings_there_are_no_counterparts(pool, tmp_path):
    tiny_score(pool, tmp_path / "s", discard_embeddings=True)
    view = looked(tmp_path / "s", unmeasured(tmp_path / "s"))
    assert "keeps no embeddings" in content(view)["problem"]
    assert tables(view)["matrix"] is None
    assert "counterparts are missing" in render(view).html


def test_a_small_pool_with_failures_and_several_languages(tmp_path):
    members = [*pair("a", "red circle", 1, language="en"), *pair("b", "Kreis", 2, language="de")]
    write_tar(
        tmp_path / "x.tar", [*members, ("c.png", b"GIF89a no"), ("c.txt", b"x"), ("d.txt", b"y")]
    )
    read = TINY.read.__class__(keep=("language",))
    config = TINY.__class__(read=read, encode=TINY.encode)
    tiny_score(tmp_path, tmp_path / "s", config)
    view = looked(tmp_path / "s", unmeasured(tmp_path / "s"), none=Rule((Step(where="false"),)))
    assert [(own.name, own.pool, own.kept) for own in view.languages] == [
        ("de", 1, [0]),
        ("en", 1, [0]),
    ]
    failures = {own.reason: own for own in view.failures}
    assert failures["unreadable_image"].start.startswith("c.png: 47 49 46 38 39 61")
    assert failures["missing_image"].where == "x/d"
    assert sorted(view.images) == [0, 1]
    assert all(not values.any() for values in view.kept)
    assert render(view).html


def test_pairs_that_are_all_the_same(tmp_path):
    """Their log ratios cannot be estimated: alike pairs leave each other out."""
    write_tar(tmp_path / "x.tar", [member for n in range(3) for member in pair(f"s{n}", "red", 7)])
    tiny_score(tmp_path, tmp_path / "s")
    view = looked(tmp_path / "s", unmeasured(tmp_path / "s"), none=Rule((Step(where="false"),)))
    axis = next(a for a in content(view)["axes"] if a["label"] == "similarity")
    assert sum(axis["pool"]) == 3
    assert len(axis["edges"]) > 1
    assert render(view).html


def test_columns_without_values(scored, tmp_path):
    """Nulls and NaN are counted, and drawn nowhere."""
    folder = shutil.copytree(scored[0], tmp_path / "s")
    for path in (folder / "scores").glob("*.parquet"):
        table = pq.read_table(path)
        nothing = pa.array(np.full(len(table), np.nan, np.float32))
        at = table.schema.get_field_index("kl_text")
        table = table.set_column(at, "kl_text", nothing)
        at = table.schema.get_field_index("caption")
        pq.write_table(table.set_column(at, "caption", pa.nulls(len(table), pa.string())), path)
    view = looked(folder, scored[1])
    axis = next(a for a in content(view)["axes"] if a["label"] == "kl_text")
    assert axis["missing"] == 300
    assert axis["edges"] == ("0", "1")
    assert render(view).html
