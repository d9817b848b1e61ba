import io
import tarfile

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.config import EmitConfig, EstimateConfig, ReferenceMethod
from clipdre.core.scores import SCORE_COLUMNS
from clipdre.emitting.emit import write_tar_folder
from clipdre.emitting.export import write_keys, write_uids
from clipdre.emitting.relocate import relocated
from clipdre.encoding.ingest import open_embeddings
from clipdre.errors import InputError, ModelError, OutputError, UsageError
from clipdre.formats.folders.records import ShardRecord
from clipdre.formats.tars.samples import Reason, Stage
from clipdre.pipelines.score import score_embeddings
from clipdre.truth.embeddings import EmbeddingWorld
from tests.core import oracle
from tests.helpers import read_failures, read_scores, rows_of, subset_of

EXACT = EstimateConfig(ReferenceMethod.EXACT)


@pytest.fixture
def datacomp(tmp_path):
    """Two files of DataComp metadata; two rows are bad."""
    folder = tmp_path / "metadata"
    folder.mkdir()
    images, texts = EmbeddingWorld(d=768, noise=0.5).draw(90, np.random.default_rng(0))
    images[10], texts[70, 3] = 0, np.nan
    for n, rows in enumerate((slice(0, 40), slice(40, 90))):
        size = len(images[rows])
        uids = [f"{n}{row:031x}" for row in range(size)]
        table = pa.table(
            {
                "uid": uids,
                "url": [f"http://example.org/{uid}" for uid in uids],
                "text": [f"caption {uid}" for uid in uids],
                "original_width": pa.array(range(100, 100 + size), pa.int64()),
                "original_height": pa.array([200] * size, pa.int64()),
                "clip_l14_similarity_score": pa.array(np.linspace(0, 1, size), pa.float32()),
                "face_bboxes": pa.array([[[0.1, 0.2]]] * size),
                "sha256": uids,
                "similarity": uids,  # a name of ours that means something else
            }
        )
        pq.write_table(table, folder / f"{n:08d}.parquet")
        with np.errstate(all="ignore"):
            arrays = {"l14_img": images[rows], "l14_txt": texts[rows]}
            arrays |= {"b32_img": images[rows, :512], "b32_txt": texts[rows, :512]}
            half = {name: value.astype(np.float16) for name, value in arrays.items()}
            np.savez(folder / f"{n:08d}.npz", **half, dedup=np.zeros(size))
    return folder, images, texts


def opened(folder, architecture="l14", scale=None, bias=0.0, inner_product=False):
    return open_embeddings(folder, architecture, scale, bias, inner_product)


def shard_record(path):
    return ShardRecord(
        name=path.stem, url=str(path), nbytes=path.stat().st_size, modified="yesterday"
    )


class TestOpen:
    def test_datacomp_records_its_models(self, datacomp):
        for architecture, name, dim in (
            ("l14", "ViT-L-14 (openai)", 768),
            ("b32", "ViT-B-32 (openai)", 512),
        ):
            source = opened(datacomp[0], architecture)
            assert source.layout == "DataComp"
            assert (source.model.name, source.model.embedding_dim) == (name, dim)
            assert (source.model.logit_scale, source.model.logit_bias) == (100, 0)
            assert source.model.precision == "as given"
        assert opened(datacomp[0], scale=20.0).model.logit_scale == 20

    def test_files_come_in_order(self, datacomp):
        folder, _, _ = datacomp
        expected = [str(folder / f"{n:08d}.parquet") for n in (0, 1)]
        assert opened(folder).files() == expected

    def test_other_layouts_need_the_logit_scale(self, scored):
        embeddings = scored[0] / "embeddings"
        with pytest.raises(ModelError, match="do not record the logit scale") as caught:
            opened(embeddings)
        assert caught.value.cure.startswith("pass `logit_scale`")
        source = opened(embeddings, scale=50.0, bias=-3.0)
        assert source.layout == "ClipRetrieval"
        assert (source.model.name, source.model.embedding_dim) == ("unknown", 128)
        assert (source.model.logit_scale, source.model.logit_bias) == (50, -3)

    @pytest.mark.parametrize(
        ("scale", "bias"), [(np.nan, 0.0), (np.inf, 0.0), (0.0, 0.0), (-1.0, 0.0), (1.0, np.nan)]
    )
    def test_scales_and_biases_that_are_not_usable_are_refused(self, scored, scale, bias):
        with pytest.raises(UsageError, match=r"`logit_scale` is .*: use a positive scale"):
            opened(scored[0] / "embeddings", scale=scale, bias=bias)

    def test_inner_products_have_no_usual_scale(self, datacomp):
        with pytest.raises(ModelError, match="do not record the logit scale") as caught:
            opened(datacomp[0], inner_product=True)
        assert "1 if inner products are logits" in caught.value.cure
        source = opened(datacomp[0], scale=1.0, inner_product=True)
        assert source.model.inner_product
        found = source.read(shard_record(datacomp[0] / "00000001.parquet"))
        good = np.delete(np.arange(40, 90), 30)
        np.testing.assert_array_equal(found.images, datacomp[1][good].astype(np.float16))
        assert found.images.dtype == np.float32

    def test_digests_depend_on_everything_known_of_the_model(self, datacomp, scored):
        sources = [
            opened(datacomp[0]),
            opened(datacomp[0], "b32"),
            opened(datacomp[0], scale=20.0),
            opened(datacomp[0], bias=1.0),
            opened(scored[0] / "embeddings", scale=100.0),
            opened(datacomp[0], scale=100.0, inner_product=True),
        ]
        assert len({source.model.digest for source in sources}) == len(sources)

    def test_folders_without_readable_embeddings_are_refused(self, tmp_path):
        with pytest.raises(InputError, match="holds no embeddings in a known layout"):
            opened(tmp_path)
        (tmp_path / "a.parquet").write_bytes(b"PAR1")
        (tmp_path / "a.npz").write_bytes(b"")
        with pytest.raises(InputError, match="none of the embedding files in") as caught:
            opened(tmp_path)
        assert caught.value.cure == "check that they are complete"

    def test_a_readable_file_is_enough(self, datacomp):
        folder, _, _ = datacomp
        (folder / "00000000.npz").write_bytes(b"PK not a zip")
        assert opened(folder).model.embedding_dim == 768


class TestRead:
    def test_rows_have_unit_vectors_and_our_columns(self, datacomp):
        folder, images, texts = datacomp
        found = opened(folder).read(shard_record(folder / "00000001.parquet"))
        assert found.seen == 50
        assert found.images.dtype == found.texts.dtype == np.float16
        good = np.delete(np.arange(40, 90), 30)
        for vectors, expected in ((found.images, images), (found.texts, texts)):
            unit = expected[good] / np.linalg.norm(expected[good], axis=1, keepdims=True)
            np.testing.assert_allclose(vectors, unit, atol=2e-3)
        assert found.samples["shard"].to_pylist() == ["00000001"] * 49
        assert found.samples["key"].equals(found.samples["uid"])
        assert found.samples["offset"].null_count == 49
        assert found.samples["height"].to_pylist() == [200] * 49
        assert "face_bboxes" in found.samples.column_names
        (failure,) = found.failures
        assert (failure.key, failure.offset) == (f"1{30:031x}", 30)
        assert (failure.stage, failure.reason) == (Stage.READ, Reason.NON_FINITE_EMBEDDING)

    def test_zero_vectors_are_failures(self, datacomp):
        folder, _, _ = datacomp
        found = opened(folder).read(shard_record(folder / "00000000.parquet"))
        assert [failure.offset for failure in found.failures] == [10]
        assert len(found.samples) == 39

    def test_misaligned_and_damaged_files_are_failures(self, datacomp):
        folder, _, _ = datacomp
        source = opened(folder)
        table = pq.read_table(folder / "00000000.parquet")
        pq.write_table(table.slice(0, 39), folder / "00000000.parquet")
        (folder / "00000001.npz").write_bytes(b"PK not a zip")
        for number, reason, message in (
            (0, Reason.MISALIGNED_ROWS, "images (40, 768), texts (40, 768), table (39, 768)"),
            (1, Reason.BROKEN_FILE, "ValueError: "),
        ):
            found = source.read(shard_record(folder / f"{number:08d}.parquet"))
            (failure,) = found.failures
            assert failure.reason is reason
            assert message in failure.message
            assert (found.seen, len(found.samples), len(found.images)) == (1, 0, 0)

    @pytest.mark.parametrize(
        "spoiled",
        [
            {"arrays": np.full((50, 768), "x")},
            {"arrays": np.zeros((50, 768), [("a", "f4"), ("b", "U3")])},
        ],
    )
    def test_columns_and_arrays_of_any_type_lose_only_their_file(self, datacomp, tmp_path, spoiled):
        folder, _, _ = datacomp
        table = pq.read_table(folder / "00000001.parquet")
        pq.write_table(spoiled.get("table", lambda t: t)(table), folder / "00000001.parquet")
        if "arrays" in spoiled:
            arrays = dict.fromkeys(("l14_img", "l14_txt"), spoiled["arrays"])
            np.savez(folder / "00000001.npz", **arrays)
        manifest = score_embeddings(opened(folder), tmp_path / "s", EXACT, device="cpu")
        assert [shard.rows for shard in manifest.shards] == [39, 0]
        assert manifest.shards[1].failures == {"broken_file": 1}

    def test_an_error_of_any_type_in_the_first_file_loses_only_that_file(
        self, datacomp, monkeypatch
    ):
        folder, _, _ = datacomp
        read = type(opened(folder).layout_reader).read

        def encrypted(layout, path):
            if path.stem == "00000000":
                raise RuntimeError("File is encrypted")
            return read(layout, path)

        monkeypatch.setattr(type(opened(folder).layout_reader), "read", encrypted)
        source = opened(folder)
        (failure,) = source.read(shard_record(folder / "00000000.parquet")).failures
        assert failure.reason is Reason.BROKEN_FILE
        assert failure.message == "RuntimeError: File is encrypted"
        assert source.read(shard_record(folder / "00000001.parquet")).seen == 50

    def test_vectors_of_another_length_are_misaligned(self, datacomp):
        folder, _, _ = datacomp
        source = opened(folder)
        other = type(source)(
            source.layout_reader, msgspec.structs.replace(source.model, embedding_dim=512)
        )
        (failure,) = other.read(shard_record(folder / "00000000.parquet")).failures
        assert failure.reason is Reason.MISALIGNED_ROWS

    def test_pickled_arrays_are_not_loaded(self, datacomp):
        folder, _, _ = datacomp
        pickled = np.array([{"x": 1}] * 50, dtype=object)
        np.savez(folder / "00000001.npz", l14_img=pickled, l14_txt=np.zeros((50, 768)))
        (failure,) = opened(folder).read(shard_record(folder / "00000001.parquet")).failures
        assert failure.reason is Reason.BROKEN_FILE


class TestScores:
    def test_datacomp_metadata_is_scored_at_the_models_scale(self, datacomp, tmp_path):
        folder, images, texts = datacomp
        manifest = score_embeddings(opened(folder), tmp_path / "s", EXACT)
        assert (manifest.rows, manifest.samples) == (88, 90)
        failures = read_failures(tmp_path / "s", manifest)
        assert [(f["reason"], f["offset"]) for f in failures] == [
            ("non_finite_embedding", 10),
            ("non_finite_embedding", 30),
        ]
        table = read_scores(tmp_path / "s", manifest)
        good = np.delete(np.arange(90), [10, 70])
        unit = [v[good].astype(np.float16).astype(np.float64) for v in (images, texts)]
        unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in unit]
        expected = oracle.scores(*unit, 100.0)
        for name in SCORE_COLUMNS:
            np.testing.assert_allclose(
                table[name], expected[name], atol=0.02, rtol=2e-3, err_msg=name
            )
        assert table["key"].equals(table["uid"])
        assert table["width"][0].as_py() == 100
        assert table["caption"][0].as_py().startswith("caption 0")

    def test_a_runs_own_embeddings_give_its_scores(self, scored, tmp_path):
        folder, run = scored
        source = opened(folder / "embeddings", scale=run.model.logit_scale)
        manifest = score_embeddings(source, tmp_path / "s", EXACT)
        found, expected = read_scores(tmp_path / "s", manifest), read_scores(folder, run)
        assert found["key"].equals(expected["key"])
        for name in SCORE_COLUMNS:
            np.testing.assert_allclose(
                found[name], expected[name], atol=2e-3, rtol=2e-3, err_msg=name
            )

    def test_bad_files_are_recorded_and_the_run_continues(self, datacomp, tmp_path):
        folder, _, _ = datacomp
        table = pq.read_table(folder / "00000000.parquet")
        pq.write_table(table.slice(0, 39), folder / "00000002.parquet")
        (folder / "00000002.npz").write_bytes((folder / "00000000.npz").read_bytes())
        pq.write_table(table, folder / "00000003.parquet")
        (folder / "00000003.npz").write_bytes(b"PK not a zip")
        manifest = score_embeddings(opened(folder), tmp_path / "s", EXACT)
        counts = {shard.name: shard.failures for shard in manifest.shards}
        assert counts["00000002"] == {"misaligned_rows": 1}
        assert counts["00000003"] == {"broken_file": 1}
        assert manifest.rows == 88

    def test_metadata_as_pandas_writes_it_is_scored(self, datacomp, tmp_path):
        """A missing width makes floats of all; a missing key is a row's number."""
        folder, _, _ = datacomp
        path = folder / "00000000.parquet"
        table = pq.read_table(path)
        for name, kind, missing in (("uid", str, None), ("original_width", float, np.nan)):
            values = [kind(value) for value in table[name].to_pylist()]
            values[3] = missing
            table = table.set_column(table.column_names.index(name), name, pa.array(values))
        pq.write_table(table, path)
        with pytest.warns(UserWarning, match="shard 00000000: 1 row without a key, named by"):
            manifest = score_embeddings(opened(folder), tmp_path / "s", EXACT)
        row = read_scores(tmp_path / "s", manifest).slice(3, 1).to_pylist()[0]
        assert (row["key"], row["uid"], row["width"], row["height"]) == ("3", None, None, 200)
        assert manifest.rows == 88

    def test_vectors_beyond_single_precision_are_failures(self, datacomp):
        folder, _, _ = datacomp
        vectors = np.ones((50, 768))
        vectors[7] = 1e300
        np.savez(folder / "00000001.npz", l14_img=vectors, l14_txt=vectors)
        found = opened(folder).read(shard_record(folder / "00000001.parquet"))
        assert [failure.offset for failure in found.failures] == [7]

    def test_other_columns_stay_available_to_filters(self, datacomp, tmp_path):
        manifest = score_embeddings(opened(datacomp[0], "b32"), tmp_path / "s", EXACT)
        where = "clip_l14_similarity_score > 0.5 AND url LIKE 'http%' AND len(face_bboxes) = 1"
        subset = subset_of((tmp_path / "s", manifest), where=where)
        table = read_scores(tmp_path / "s", manifest)
        kept = (table["clip_l14_similarity_score"].to_numpy() > 0.5).sum()
        assert 0 < len(subset.selection) == kept < 88
        assert table["source_similarity"].equals(table["uid"])
        out = io.BytesIO()
        write_keys(subset, out)
        assert len(out.getvalue().splitlines()) == kept
        with pytest.raises(OutputError):  # there are no tars
            write_tar_folder(subset, tmp_path / "kept", EmitConfig())
        assert not (tmp_path / "kept").exists()

    def test_files_need_not_have_the_same_columns(self, datacomp, tmp_path):
        folder, _, _ = datacomp
        first, second = (folder / f"{n:08d}.parquet" for n in (0, 1))
        table = pq.read_table(first).drop_columns(["url"]).append_column("mixed", pa.nulls(40))
        pq.write_table(table, first)
        table = pq.read_table(second)
        pq.write_table(table.append_column("mixed", pa.array(range(50))), second)
        made = tmp_path / "s", score_embeddings(opened(folder), tmp_path / "s", EXACT)
        rows = rows_of(subset_of(made, where="mixed >= 40 OR url IS NULL"))
        assert rows["mixed"].to_pylist() == [None] * 39 + list(range(40, 50))
        assert rows["file_row_number"].to_pylist() == [*range(39), *range(39, 49)]

    def test_kept_samples_are_found_in_the_tars(self, scored, pool, tmp_path):
        folder, run = scored
        source = opened(folder / "embeddings", scale=run.model.logit_scale)
        manifest = score_embeddings(source, tmp_path / "s", EXACT)
        subset = subset_of((tmp_path / "s", manifest), by="kl_text", top=40)
        urls = sorted(str(path) for path in pool.glob("*.tar"))
        write_tar_folder(relocated(subset.selection, urls), tmp_path / "kept", EmitConfig())
        members = {}
        for url in urls:
            with tarfile.open(url) as tar:
                members |= {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
        kept = pq.read_table(tmp_path / "kept" / "00000000.parquet")["key"].to_pylist()
        assert kept == rows_of(subset)["key"].to_pylist()
        with tarfile.open(tmp_path / "kept" / "00000000.tar") as tar:
            found = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
        names = [f"{key}.{suffix}" for key in kept for suffix in ("png", "txt", "json")]
        assert found == {name: members[name] for name in names}

    def test_uids_are_written_as_datacomps_subset_file(self, datacomp, tmp_path):
        manifest = score_embeddings(opened(datacomp[0]), tmp_path / "s", EXACT)
        subset, out = subset_of((tmp_path / "s", manifest), by="log_ratio", top=20), io.BytesIO()
        write_uids(subset, out)
        out.seek(0)
        found = np.load(out)
        uids = rows_of(subset)["uid"].to_pylist()
        expected = np.array([divmod(int(u, 16), 2**64) for u in uids], dtype=np.dtype("u8,u8"))
        expected.sort()
        assert found.dtype == np.dtype("u8,u8")
        assert (found == expected).all()
