import dataclasses
import io
import json
import shutil
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from clipdre.config import (
    Decode,
    EncodeConfig,
    EstimateConfig,
    ReadConfig,
    ReferenceMethod,
    RunConfig,
)
from clipdre.core.modality import Modality
from clipdre.core.scores import SCORE_COLUMNS
from clipdre.encoding.ingest import open_embeddings
from clipdre.errors import InputError, ModelError, OutputError, ScoresError
from clipdre.estimating import jobs as estimating_jobs
from clipdre.formats.folders.embeddings import StoredPool, embedding_files
from clipdre.formats.folders.manifest import MANIFEST, read_manifest
from clipdre.formats.folders.tables import SAMPLE_SCHEMA
from clipdre.pipelines.score import score_embeddings
from clipdre.truth.pool import write_pool
from tests.core import oracle
from tests.helpers import (
    TINY,
    all_files,
    pair,
    png,
    read_failures,
    read_scores,
    tiny_score,
    write_tar,
)
from tests.pipelines.scoring import assert_same_scores, with_method


def stored_files(folder):
    return embedding_files(folder / "embeddings", 3)


def test_scores_match_the_oracle_on_the_stored_embeddings(scored):
    folder, manifest = scored
    pool = StoredPool(stored_files(folder))
    images, texts = (pool.read(m, 0, len(pool)).double().numpy() for m in Modality)
    groups = oracle.alike_groups(images, texts)
    assert len(set(groups)) < len(groups)
    expected = oracle.scores(images, texts, manifest.model.logit_scale, groups=groups)
    table = read_scores(folder, manifest)
    assert table.column_names == [*SAMPLE_SCHEMA.names, *SCORE_COLUMNS]
    for name in SCORE_COLUMNS:
        np.testing.assert_allclose(table[name], expected[name], atol=1e-4, rtol=1e-4, err_msg=name)


def test_rows_record_where_each_sample_lies(scored, pool):
    folder, manifest = scored
    table = read_scores(folder, manifest).to_pylist()
    assert len(table) == 300
    for row in table[::37]:
        data = (pool / f"{row['shard']}.tar").read_bytes()
        span = data[row["offset"] : row["offset"] + row["nbytes"]]
        with tarfile.open(fileobj=io.BytesIO(span)) as tar:
            members = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
        assert set(members) == {f"{row['key']}.{suffix}" for suffix in ("png", "txt", "json")}
        assert members[f"{row['key']}.txt"].decode() == row["caption"]
        assert json.loads(members[f"{row['key']}.json"])["uid"] == row["uid"]
        assert (row["width"], row["height"]) == (64, 64)


def test_batch_size_and_workers_do_not_change_scores(scored, pool, tmp_path):
    other = dataclasses.replace(
        TINY, encode=dataclasses.replace(TINY.encode, batch_size=7, workers=5)
    )
    manifest = tiny_score(pool, tmp_path / "s", other)
    assert_same_scores(read_scores(tmp_path / "s", manifest), read_scores(*scored))


def photo(seed):
    """A JPEG of 200 x 160 with some detail."""
    noise = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((200, 160), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def test_fast_decoding_is_a_setting_of_the_run_and_barely_changes_scores(tmp_path):
    members = [
        member
        for n in range(12)
        for member in ((f"k{n:02d}.jpg", photo(n)), (f"k{n:02d}.txt", f"red {n}".encode()))
    ]
    write_tar(tmp_path / "a.tar", members)
    fast = dataclasses.replace(TINY, read=dataclasses.replace(TINY.read, decode=Decode.FAST))
    found = [
        read_scores(tmp_path / name, tiny_score(tmp_path, tmp_path / name, config))
        for name, config in (("exact", TINY), ("fast", fast))
    ]
    assert found[1]["width"].to_pylist() == [200] * 12
    apart = np.abs(found[0]["similarity"].to_numpy() - found[1]["similarity"].to_numpy())
    assert 0 < apart.max() < 0.05
    with pytest.raises(ScoresError, match="differs in read decode"):
        tiny_score(tmp_path, tmp_path / "exact", fast)


def test_small_tiles_and_ranges_change_nothing(scored, pool, tmp_path, monkeypatch):
    monkeypatch.setattr("clipdre.estimating.estimate.QUERY_ROWS", 32)
    monkeypatch.setattr("clipdre.estimating.marginal.BLOCKS", {"cpu": (9, 17)})
    manifest = tiny_score(pool, tmp_path / "s")
    assert_same_scores(read_scores(tmp_path / "s", manifest), read_scores(*scored))


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("messy")
    good = [m for n in range(20) for m in pair(f"g{n:02d}", f"red circle {n}", seed=n)]
    bad = [
        ("b0.png", b"<html>"),
        ("b0.txt", b"x"),
        ("b1.png", png(1)),
        ("b2.png", png(1)),
        ("b2.txt", b"  "),
        ("b3.txt", b"alone"),
        ("b4.png", png(1)[:70]),
        ("b4.txt", b"cut"),
    ]
    write_tar(folder / "a.tar", [*good[:20], *bad, *good[20:]])
    write_tar(folder / "b.tar", [*pair("x"), *pair("y")])
    data = (folder / "b.tar").read_bytes()
    (folder / "b.tar").write_bytes(data[: 4 * 512 + 700])
    (folder / "c.tar").write_bytes(b"not a tar at all" * 100)
    (folder / "d.tar").write_bytes(b"")
    write_tar(folder / "e.tar", [])
    return folder


def test_bad_samples_and_shards_are_recorded_and_the_run_continues(messy, tmp_path):
    manifest = tiny_score(messy, tmp_path / "s")
    by_shard = {shard.name: (shard.rows, shard.failures) for shard in manifest.shards}
    assert by_shard == {
        "a": (
            20,
            {"empty_caption": 1, "missing_caption": 1, "missing_image": 1, "unreadable_image": 2},
        ),
        "b": (1, {"broken_tar": 1}),
        "c": (0, {"not_a_tar": 1}),
        "d": (0, {"empty_file": 1}),
        "e": (0, {}),
    }
    failures = read_failures(tmp_path / "s", manifest)
    assert [f["key"] for f in failures] == ["b0", "b1", "b2", "b3", "b4", "y", "", ""]
    assert [f["offset"] for f in failures[:5]] == sorted(f["offset"] for f in failures[:5])
    assert manifest.rows + len(failures) == manifest.samples
    assert len(read_scores(tmp_path / "s", manifest)) == manifest.rows == 21


def test_reads_captions_from_json_and_chosen_image_suffixes(tmp_path):
    members = [
        m
        for n in range(3)
        for m in [
            *pair(f"k{n}", "txt", seed=n, title=f"title {n}"),
            (f"k{n}.thumb", png(n + 9, (3, 3))),
        ]
    ]
    write_tar(tmp_path / "a.tar", members)
    read = ReadConfig(image_suffixes=("thumb",), caption_field="title")
    manifest = tiny_score(tmp_path, tmp_path / "s", dataclasses.replace(TINY, read=read))
    table = read_scores(tmp_path / "s", manifest)
    assert table["caption"].to_pylist() == ["title 0", "title 1", "title 2"]
    assert set(table["width"].to_pylist()) == {3}


def test_a_sample_is_drawn_by_key_hash_and_leaves_out_own_counterparts(scored, pool, tmp_path):
    manifest = tiny_score(pool, tmp_path / "s", with_method(ReferenceMethod.SAMPLE, bulk=50))
    assert manifest.reference.method == "sample"
    assert manifest.reference.bulk == 48  # whole folds
    table, exact = read_scores(tmp_path / "s", manifest), read_scores(*scored)
    hashes = exact["key_hash"].to_numpy()
    order, halves = np.argsort(hashes), hashes % np.uint64(2)
    drawn = np.sort([row for half in (0, 1) for row in order[halves[order] == half][:24]])
    vectors = StoredPool(stored_files(tmp_path / "s"))
    images, texts = (vectors.read(m, 0, 300).double().numpy() for m in Modality)
    logits = manifest.model.logit_scale * images @ texts.T
    groups = oracle.alike_groups(images, texts)
    for row in (0, int(drawn[3]), 299):
        others = drawn[groups[drawn] != groups[row]]
        expected = np.log(np.mean(np.exp(logits[row, others])))
        assert table["log_partition_image"][row].as_py() == pytest.approx(expected, abs=1e-4)
    assert np.all(table["log_ratio_se"].to_numpy() > 0)


def test_stratified_is_close_to_exact_and_the_default_for_large_pools(
    scored, pool, tmp_path, monkeypatch
):
    monkeypatch.setattr("clipdre.estimating.reference.EXACT_UP_TO", 299)
    monkeypatch.setattr("clipdre.estimating.reference.BREAK_EVEN", 1.0)
    config = with_method(ReferenceMethod.AUTO, bulk=64, neighbors=40)
    manifest = tiny_score(pool, tmp_path / "s", config)
    assert manifest.reference.method == "stratified"
    near = manifest.reference.near
    assert set(near) == set(Modality)
    assert all(record.mass >= 0.99 for record in near.values())
    table, exact = read_scores(tmp_path / "s", manifest), read_scores(*scored)
    for name in ("log_ratio", "kl_image", "kl_text", "klr_image", "klr_text"):
        error = table[name].to_numpy() - exact[name].to_numpy()
        se = table[f"{name}_se"].to_numpy()
        assert np.sqrt(np.mean(error**2)) < 0.1, name
        assert np.mean((np.abs(error) <= 2 * se) | (np.abs(error) <= 0.01)) >= 0.85, name
    for name in ("similarity", "dw_image", "dc_text"):
        np.testing.assert_allclose(table[name], exact[name], rtol=1e-6)


def test_a_bulk_smaller_than_its_folds_is_refused(pool, tmp_path):
    with pytest.raises(InputError, match="`bulk` 20 of 300 pairs is too small"):
        tiny_score(pool, tmp_path / "s", with_method(ReferenceMethod.SAMPLE, bulk=20))


class TestSavedReference:
    @pytest.mark.parametrize(
        "method", [ReferenceMethod.EXACT, ReferenceMethod.STRATIFIED, ReferenceMethod.SAMPLE]
    )
    def test_scores_the_pool_itself_as_its_own_run_did(self, pool, tmp_path, method):
        config = with_method(method, bulk=64)
        own = tiny_score(pool, tmp_path / "own", config)
        saved = dataclasses.replace(TINY, estimate=EstimateConfig(saved=str(tmp_path / "own")))
        again = tiny_score(pool, tmp_path / "again", saved)
        assert not (tmp_path / "again" / "reference" / "reference.json").exists()
        assert again.reference == own.reference
        assert_same_scores(
            read_scores(tmp_path / "again", again), read_scores(tmp_path / "own", own)
        )

    def test_new_shards_are_compared_with_all_of_the_old_pool(self, scored, tmp_path):
        write_pool(tmp_path / "new", 50, seed=77, noise={})
        (tmp_path / "new" / "00000.tar").rename(tmp_path / "new" / "new.tar")
        saved = dataclasses.replace(TINY, estimate=EstimateConfig(saved=str(scored[0])))
        manifest = tiny_score(tmp_path / "new", tmp_path / "s", saved, discard_embeddings=True)
        assert not (tmp_path / "s" / "embeddings").exists()
        table = read_scores(tmp_path / "s", manifest)
        old = StoredPool(stored_files(scored[0])).read(Modality.TEXT, 0, 300).double().numpy()
        tiny_score(tmp_path / "new", tmp_path / "kept", saved)
        kept = StoredPool(embedding_files(tmp_path / "kept" / "embeddings", 1))
        image = kept.read(Modality.IMAGE, 4, 5).double().numpy()
        logits = manifest.model.logit_scale * image @ old.T
        expected = np.log(np.exp(logits).mean())
        assert table["log_partition_image"][4].as_py() == pytest.approx(expected, abs=1e-4)
        assert table["kl_contribution"][4].as_py() == pytest.approx(
            table["log_ratio"][4].as_py() / 50, rel=1e-5
        )

    def test_of_another_model_is_refused_before_encoding(self, scored, pool, tmp_path):
        folder = tmp_path / "other"
        shutil.copytree(scored[0], folder)
        record = json.loads((folder / "reference" / "reference.json").read_text())
        record["model_digest"] = "0" * 64
        (folder / "reference" / "reference.json").write_text(json.dumps(record))
        saved = dataclasses.replace(TINY, estimate=EstimateConfig(saved=str(folder)))
        with pytest.raises(ScoresError, match="was made with other weights than clipdre-tiny"):
            tiny_score(pool, tmp_path / "s", saved)
        assert not (tmp_path / "s").exists()

    def test_of_a_folder_without_scores_is_refused(self, pool, tmp_path):
        saved = dataclasses.replace(TINY, estimate=EstimateConfig(saved=str(tmp_path / "none")))
        with pytest.raises(ScoresError, match="is not a score folder"):
            tiny_score(pool, tmp_path / "s", saved)
        assert not (tmp_path / "s").exists()


def test_tau_adds_the_unnormalised_reading(pool, tmp_path):
    manifest = tiny_score(pool, tmp_path / "s", with_method(ReferenceMethod.EXACT, tau=1000))
    table = read_scores(tmp_path / "s", manifest)
    expected = manifest.model.logit_scale * table["similarity"].to_numpy() + np.log(1000)
    np.testing.assert_allclose(table["log_ratio_tau"], expected, rtol=1e-5)


def test_discarded_embeddings_leave_scores_and_a_usable_reference(scored, pool, tmp_path):
    manifest = tiny_score(pool, tmp_path / "s", discard_embeddings=True)
    assert not (tmp_path / "s" / "embeddings").exists()
    assert (tmp_path / "s" / "reference" / "pool_image.npy").exists()
    assert_same_scores(read_scores(tmp_path / "s", manifest), read_scores(*scored))


class TestRefusals:
    def test_another_programs_folder_is_left_alone(self, pool, tmp_path):
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(OutputError, match="exists and is not a score folder"):
            tiny_score(pool, tmp_path, overwrite=True)
        assert set(all_files(tmp_path)) == {"thesis.tex"}

    @pytest.mark.parametrize("pairs", [0, 1])
    def test_a_pool_without_counterparts_has_no_ratio(self, tmp_path, pairs):
        write_tar(tmp_path / "a.tar", [m for n in range(pairs) for m in pair(str(n))])
        with pytest.raises(InputError, match=rf"hold {pairs} usable pair"):
            tiny_score(tmp_path, tmp_path / "s")

    def test_a_pool_of_two_is_scored(self, tmp_path):
        write_tar(tmp_path / "a.tar", [*pair("a", seed=1), *pair("b", "blue star", seed=2)])
        table = read_scores(tmp_path / "s", tiny_score(tmp_path, tmp_path / "s"))
        assert all(np.isfinite(table[name]).all() for name in SCORE_COLUMNS)

    def test_nothing_is_written_if_a_shard_or_the_model_is_missing(self, tmp_path):
        write_tar(tmp_path / "a.tar", pair("a"))
        config = dataclasses.replace(TINY, encode=EncodeConfig(model="local-dir:/nowhere"))
        with pytest.raises(ModelError, match="cannot load model"):
            tiny_score(tmp_path, tmp_path / "s", config)
        assert not (tmp_path / "s").exists()
        (tmp_path / "b.tar").symlink_to(tmp_path / "nowhere.tar")
        with pytest.raises(InputError, match=r"b\.tar"):
            tiny_score(tmp_path, tmp_path / "s")
        assert not (tmp_path / "s").exists()

    def test_too_many_bad_samples_stop_the_run_before_it_estimates(self, tmp_path):
        (tmp_path / "pool").mkdir()
        bad = [m for n in range(3) for m in ((f"b{n}.png", b"<html>"), (f"b{n}.txt", b"x"))]
        write_tar(tmp_path / "pool" / "a.tar", [*pair("x"), *pair("y"), *bad])
        with pytest.raises(InputError) as caught:
            tiny_score(tmp_path / "pool", tmp_path / "s", max_bad_fraction=0.5)
        assert caught.value.problem == (
            "3 of 5 samples failed (60.0%), more than `max_bad_fraction` 0.5"
        )
        assert caught.value.cure == (
            f"see {tmp_path / 's'}/failures for the reasons, or raise it to continue"
        )
        assert not (tmp_path / "s" / "scores").exists()
        manifest = tiny_score(tmp_path / "pool", tmp_path / "s", max_bad_fraction=0.6)
        assert manifest.rows == 2

    def test_files_that_something_else_wrote_are_noticed(self, pool, tmp_path, monkeypatch):
        original = estimating_jobs.scores_table

        def shortened(samples, columns):
            return original(samples, columns)[:-1]

        monkeypatch.setattr(estimating_jobs, "scores_table", shortened)
        with pytest.raises(ScoresError, match="hold 99 rows and 0 failures of 100 samples"):
            tiny_score(pool, tmp_path / "s")
        assert not read_manifest(tmp_path / "s").complete


class TestEmbeddings:
    def source(self, scored, **options):
        scale = scored[1].model.logit_scale
        options = {"logit_scale": scale, "logit_bias": 0.0} | options
        return open_embeddings(scored[0] / "embeddings", "l14", **options)

    def test_a_finished_run_is_not_run_again(self, scored, tmp_path):
        manifest = score_embeddings(self.source(scored), tmp_path / "s", EstimateConfig())
        assert not manifest.has_tars
        assert scored[1].has_tars
        assert manifest.settings["read"] == {"embeddings": "ClipRetrieval"}
        before = all_files(tmp_path / "s")
        assert score_embeddings(self.source(scored), tmp_path / "s", EstimateConfig()) == manifest
        assert all_files(tmp_path / "s") == before

    def test_another_scale_is_another_run(self, scored, tmp_path):
        score_embeddings(self.source(scored), tmp_path / "s", EstimateConfig())
        other = self.source(scored, logit_scale=50.0)
        with pytest.raises(ScoresError, match="holds a run that differs in model digest"):
            score_embeddings(other, tmp_path / "s", EstimateConfig())
        manifest = score_embeddings(
            other, tmp_path / "s", EstimateConfig(), run=RunConfig(overwrite=True)
        )
        assert manifest.model.logit_scale == 50

    def test_another_programs_folder_is_left_alone(self, scored, tmp_path):
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(OutputError, match="is not a score folder"):
            score_embeddings(
                self.source(scored), tmp_path, EstimateConfig(), run=RunConfig(overwrite=True)
            )
        assert set(all_files(tmp_path)) == {"thesis.tex"}


def test_vectors_that_are_not_finite_are_failures(tmp_path, monkeypatch):
    from clipdre.models.encoder import OpenClipEncoder

    write_tar(tmp_path / "a.tar", [m for n in range(5) for m in pair(str(n), f"c{n}", seed=n)])
    original = OpenClipEncoder.encode_texts

    def spoilt(self, tokens):
        vectors = original(self, tokens).clone()
        wanted = self.tokenize("c3")
        vectors[[torch.equal(row, wanted) for row in tokens]] = float("nan")
        return vectors

    monkeypatch.setattr(OpenClipEncoder, "encode_texts", spoilt)
    manifest = tiny_score(tmp_path, tmp_path / "s")
    (failure,) = read_failures(tmp_path / "s", manifest)
    assert (failure["key"], failure["reason"]) == ("3", "non_finite_embedding")
    assert read_scores(tmp_path / "s", manifest)["key"].to_pylist() == ["0", "1", "2", "4"]


def test_embeddings_are_stored_in_clip_retrievals_layout(scored):
    folder, _ = scored
    images = np.load(folder / "embeddings" / "img_emb" / "img_emb_1.npy")
    metadata = pq.read_table(folder / "embeddings" / "metadata" / "metadata_1.parquet")
    assert images.dtype == np.float16
    assert images.shape == (100, 128)
    assert {"image_path", "caption"} <= set(metadata.column_names)
    assert (folder / MANIFEST).exists()
