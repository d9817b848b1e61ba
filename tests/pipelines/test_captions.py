"""Several captions per image: a row each, from one encoding of the image."""

import dataclasses
import tarfile

import numpy as np
import pytest

from clipdre.config import Best, EmitConfig, EstimateConfig, Own, ReadConfig, SubsetFormat
from clipdre.doctor import diagnose
from clipdre.emitting.write import write_subset
from clipdre.errors import ScoresError, SelectionError, UsageError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import read_manifest
from clipdre.models.encoder import OpenClipEncoder
from clipdre.pipelines.measure import measure
from clipdre.pipelines.rows import PoolReader
from clipdre.scorers.prompt_weight import PromptWeight
from clipdre.selecting.request import Request
from clipdre.selecting.select import select
from clipdre.sql.query import ScoreQuery
from tests.helpers import (
    TINY,
    all_files,
    pair,
    png,
    read_failures,
    read_scores,
    tiny_score,
    unmeasured,
    write_tar,
)
from tests.pipelines.scoring import assert_same_scores

BOTH = ReadConfig(more_captions=("json:recaption",))
COLOURS = ("red", "blue", "green", "yellow", "orange", "purple")


def config(read=BOTH, **estimate):
    return dataclasses.replace(TINY, read=read, estimate=EstimateConfig(**estimate))


@pytest.fixture
def pool(tmp_path):
    """Six images with two captions each, in two shards."""
    folder = tmp_path / "pool"
    folder.mkdir()
    for shard, colours in (("a", COLOURS[:4]), ("b", COLOURS[4:])):
        members = [
            member
            for n, colour in enumerate(colours)
            for member in pair(
                f"{n}", f"a {colour} circle", seed=ord(shard) + n, recaption=f"{colour} star {n}"
            )
        ]
        write_tar(folder / f"{shard}.tar", members)
    return folder


@pytest.fixture
def scored(pool, tmp_path):
    tiny_score(pool, tmp_path / "s", config())
    return tmp_path / "s", unmeasured(tmp_path / "s")


def kept_by(scored, **request):
    query = ScoreQuery(ScoreFolder(scored[0]), scored[1])
    (rule,) = Request(**request).rules(query)
    return select(query, rule)


def captions_of(scored):
    return read_scores(*scored)["caption"].to_pylist()


class TestRows:
    def test_there_is_one_for_each_caption(self, scored):
        table = read_scores(*scored)
        assert captions_of(scored)[:4] == [
            "a red circle",
            "red star 0",
            "a blue circle",
            "blue star 1",
        ]
        assert table["caption_source"].to_pylist() == ["txt", "json:recaption"] * 6
        assert table["key"].to_pylist()[:4] == ["0", "0", "1", "1"]
        assert len(set(table["key_hash"].to_pylist())) == 12
        assert (scored[1].rows, scored[1].samples, scored[1].failures) == (12, 12, {})

    def test_each_is_as_if_scored_alone(self, scored, pool, tmp_path):
        """With everything counted, the pool of both is that of two runs over one caption each."""
        alone = [
            read_scores(tmp_path / name, tiny_score(pool, tmp_path / name, config(read)))
            for name, read in (("t", ReadConfig()), ("r", ReadConfig(caption_field="recaption")))
        ]
        table = read_scores(*scored)
        for n, expected in enumerate(alone):
            found = table.take(np.arange(n, 12, 2))
            assert found["caption"].to_pylist() == expected["caption"].to_pylist()
            np.testing.assert_allclose(found["similarity"], expected["similarity"], atol=1e-5)

    def test_an_image_is_encoded_once(self, pool, tmp_path, monkeypatch):
        images, texts = [], []
        for name, seen in (("encode_images", images), ("encode_texts", texts)):
            original = getattr(OpenClipEncoder, name)

            def counted(self, rows, original=original, seen=seen):
                seen.append(len(rows))
                return original(self, rows)

            monkeypatch.setattr(OpenClipEncoder, name, counted)
        tiny_score(pool, tmp_path / "s", config())
        before = sum(images)
        tiny_score(pool, tmp_path / "t", config(ReadConfig()))
        assert before == sum(images) - before  # the fingerprint's and six of the pool
        assert sum(texts) >= 18

    @pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
    def test_batches_change_nothing(self, scored, pool, tmp_path, batch_size):
        encode = dataclasses.replace(TINY.encode, batch_size=batch_size, workers=3)
        again = dataclasses.replace(config(), encode=encode)
        manifest = tiny_score(pool, tmp_path / "again", again)
        assert_same_scores(read_scores(tmp_path / "again", manifest), read_scores(*scored))

    def test_and_failures_are_the_captions_that_should_be(self, tmp_path):
        members = [
            *pair("good", recaption="blue star"),
            *pair("no-second", seed=2),
            ("no-first.png", png(3)),
            ("no-first.json", b'{"recaption": "a circle"}'),
            *pair("blank", caption=" ", seed=4, recaption="green"),
            ("no-image.txt", b"red"),
            ("bad-image.png", b"<html>"),
            ("bad-image.txt", b"red"),
            ("bad-image.json", b'{"recaption": "red"}'),
            ("long.png", png(5)),
            ("long.txt", b"x" * 70_000),
            ("long.json", b'{"recaption": "yellow"}'),
        ]
        write_tar(tmp_path / "a.tar", members)
        manifest = tiny_score(tmp_path, tmp_path / "s", config())
        table = read_scores(tmp_path / "s", manifest)
        rows = list(zip(table["key"].to_pylist(), table["caption_source"].to_pylist(), strict=True))
        second = "json:recaption"
        assert rows == [
            ("good", "txt"),
            ("good", second),
            ("no-second", "txt"),
            ("no-first", second),
            ("blank", second),
            ("long", second),
        ]
        failures = [(f["key"], f["reason"]) for f in read_failures(tmp_path / "s", manifest)]
        assert failures == [
            ("no-second", "missing_caption"),
            ("no-first", "missing_caption"),
            ("blank", "empty_caption"),
            *[("no-image", "missing_image")] * 2,
            *[("bad-image", "unreadable_image")] * 2,
            ("long", "caption_too_large"),
        ]
        assert manifest.samples == len(rows) + len(failures) == 2 * 7
        found = diagnose([str(tmp_path / "a.tar")], BOTH)
        assert (found.samples, "repeated_key" in found.findings) == (14, False)


class TestSettings:
    def test_one_caption_is_as_before(self, pool, tmp_path):
        manifest = tiny_score(pool, tmp_path / "s", config(ReadConfig()))
        assert "more_captions" not in manifest.settings["read"]
        assert "caption_source" not in read_scores(tmp_path / "s", manifest).column_names

    def test_other_captions_are_another_run(self, scored, pool):
        for read in (ReadConfig(), ReadConfig(more_captions=("json:other",))):
            with pytest.raises(ScoresError, match="differs in read more_captions"):
                tiny_score(pool, scored[0], config(read))
        before = all_files(scored[0] / "scores")
        assert tiny_score(pool, scored[0], config()) == read_manifest(scored[0])
        assert all_files(scored[0] / "scores") == before

    def test_the_same_caption_twice_is_refused(self):
        for more in (("txt",), ("json:a", "json:a")):
            with pytest.raises(UsageError, match="same caption"):
                ReadConfig(more_captions=more)


class TestReference:
    """Captions of one image leave each other out, as a pair leaves itself out."""

    def expected(self, scored, own_out):
        """Log ratios of all rows in plain arrays, from the stored vectors."""
        pool = PoolReader(ScoreFolder(scored[0]), scored[1], "cpu").pool
        images, texts = (
            v.double().numpy() for v in (pool.read(m, 0, 12) for m in ("image", "text"))
        )
        logits = scored[1].model.logit_scale * images @ texts.T
        samples = np.repeat(np.arange(6), 2)
        out = samples[:, None] == samples[None, :] if own_out else np.zeros((12, 12), bool)
        weights = np.where(out, 0.0, np.exp(logits))
        by_image = np.log(weights.sum(axis=1) / (~out).sum(axis=1))
        by_text = np.log(weights.sum(axis=0) / (~out).sum(axis=0))
        own = np.diag(logits)
        return own - (by_image + by_text) / 2

    @pytest.mark.parametrize("own", list(Own))
    def test_is_that_of_plain_arrays(self, pool, tmp_path, own):
        manifest = tiny_score(pool, tmp_path / "s", config(own=own, alike=1.0))
        found = read_scores(tmp_path / "s", manifest)["log_ratio"]
        expected = self.expected((tmp_path / "s", manifest), own is Own.LEFT_OUT)
        np.testing.assert_allclose(found, expected, atol=2e-3)

    def test_they_are_no_duplicates(self, scored):
        table = ScoreQuery(ScoreFolder(scored[0]), scored[1])
        rows = table.fetchall("SELECT count(DISTINCT duplicate_group), count(*) FROM pool")
        assert rows[0][1] == 12
        assert rows[0][0] > 6


class TestBest:
    def test_keeps_one_caption_of_each_sample(self, scored):
        table = read_scores(*scored)
        scores = table["log_ratio"].to_numpy().reshape(6, 2)
        expected = [2 * n + int(row.argmax()) for n, row in enumerate(scores)]
        best = kept_by(scored, best=Best.CAPTION)
        assert str(best.steps[0].step) == "the best row of each sample by log_ratio"
        assert best.table(["caption"])["caption"].to_pylist() == [
            table["caption"][row].as_py() for row in expected
        ]
        worst = kept_by(scored, best=Best.CAPTION, best_by="-log_ratio")
        assert not set(best.table(["key_hash"])["key_hash"].to_pylist()) & set(
            worst.table(["key_hash"])["key_hash"].to_pylist()
        )

    def test_goes_before_the_rest_of_the_rule(self, scored):
        best = kept_by(scored, best=Best.CAPTION, where="caption_source = 'txt'")
        every = kept_by(scored, best=Best.CAPTION).table(["caption_source"])["caption_source"]
        assert len(best) == every.to_pylist().count("txt")
        assert len(kept_by(scored, best=Best.CAPTION, by="kl_text", top=3)) == 3

    def test_needs_several_captions(self, pool, tmp_path):
        tiny_score(pool, tmp_path / "one", config(ReadConfig()))
        one = tmp_path / "one", unmeasured(tmp_path / "one")
        with pytest.raises(SelectionError, match="needs scores of several captions per image"):
            kept_by(one, best=Best.CAPTION)
        with pytest.raises(UsageError, match="`best_by` can only be used with `best`"):
            kept_by(one, best_by="kl_text")


def members_of(path):
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers()}


class TestEmission:
    def test_writes_the_chosen_caption(self, scored, pool, tmp_path):
        second = kept_by(scored, where="caption_source = 'json:recaption'")
        config = EmitConfig(write_caption=True)
        write_subset(second, tmp_path / "kept", config=config)
        kept = members_of(tmp_path / "kept" / "00000000.tar")
        texts = {name: data.decode() for name, data in kept.items() if name.endswith(".txt")}
        assert list(texts.values()) == captions_of(scored)[1::2]
        source = members_of(pool / "a.tar")
        assert kept["2.png"] == source["2.png"]
        assert kept["2.json"] == source["2.json"]
        write_subset(second, tmp_path / "one.tar", config=config)
        assert members_of(tmp_path / "one.tar") == kept

    def test_leaves_samples_as_they_are_where_the_caption_is_the_same(self, scored, tmp_path):
        first = kept_by(scored, where="caption_source = 'txt'")
        write_subset(first, tmp_path / "a.tar", config=EmitConfig(write_caption=True))
        write_subset(first, tmp_path / "b.tar")
        assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()

    @pytest.mark.parametrize("seed", [None, 1])
    def test_all_captions_of_an_image_become_samples(self, scored, tmp_path, seed):
        config = EmitConfig(write_caption=True, shuffle_seed=seed)
        written = write_subset(
            kept_by(scored, by="log_ratio", top=12), tmp_path / "kept", config=config
        )
        assert written.renamed == 12
        kept = members_of(tmp_path / "kept" / "00000000.tar")
        texts = [data.decode() for name, data in kept.items() if name.endswith(".txt")]
        assert sorted(texts) == sorted(captions_of(scored))
        assert sum(name.endswith(".png") for name in kept) == 12

    def test_finds_samples_in_other_tars(self, scored, pool, tmp_path):
        """A tar with one more, so that samples are searched for."""
        members = [*pair("more"), *members_of(pool / "b.tar").items()]
        other = write_tar(tmp_path / "other.tar", members)
        only_b = kept_by(scored, where="shard = 'b'")
        config = EmitConfig(write_caption=True)
        write_subset(only_b, tmp_path / "kept", config=config, shards=[str(other)])
        kept = members_of(tmp_path / "kept" / "00000000.tar")
        texts = [data.decode() for name, data in kept.items() if name.endswith(".txt")]
        assert texts == captions_of(scored)[8:]

    def test_only_tars_carry_captions(self, scored, tmp_path):
        with pytest.raises(UsageError, match="`write_caption` can only be used with `format` tar"):
            write_subset(
                kept_by(scored, sample=3),
                tmp_path / "keys.txt",
                format=SubsetFormat.KEYS,
                config=EmitConfig(write_caption=True),
            )


def test_scorers_get_the_caption_of_each_row(scored):
    reader = PoolReader(ScoreFolder(scored[0]), scored[1], "cpu")
    (rows,) = reader.rows(0)
    assert [s.caption for s in rows.samples()] == rows.captions == captions_of(scored)[:8]
    record = measure(ScoreFolder(scored[0]), scored[1], PromptWeight(("red",)))
    assert record.rows == 12
