import io
import tarfile

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
from clipdre.errors import InputError, ModelError, OutputError
from clipdre.pipelines.score import score_embeddings
from clipdre.truth.embeddings import EmbeddingWorld
from tests.core import oracle
from tests.helpers import (
    chosen,
    pair,
    read_failures,
    read_scores,
    rows_of,
    subset_of,
    tiny_score,
    write_tar,
)

EXACT = EstimateConfig(ReferenceMethod.EXACT)


@pytest.fixture
def datacomp(tmp_path):
    """Two files of DataComp metadata as its tools lay them out; some rows are bad."""
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


def test_datacomp_metadata_is_scored_at_its_models_scale(datacomp, tmp_path):
    folder, images, texts = datacomp
    source = open_embeddings(folder, "l14", None, 0.0)
    manifest = score_embeddings(source, tmp_path / "s", EXACT)
    assert manifest.model.logit_scale == 100
    assert (manifest.rows, manifest.samples) == (88, 90)
    failures = read_failures(tmp_path / "s", manifest)
    assert [(f["reason"], f["offset"]) for f in failures] == [
        ("non_finite_embedding", 10),
        ("non_finite_embedding", 30),
    ]
    assert failures[0]["key"] == f"0{10:031x}"
    table = read_scores(tmp_path / "s", manifest)
    good = np.delete(np.arange(90), [10, 70])
    unit = [v[good].astype(np.float16).astype(np.float64) for v in (images, texts)]
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in unit]
    expected = oracle.scores(*unit, 100.0)
    for name in SCORE_COLUMNS:
        np.testing.assert_allclose(table[name], expected[name], atol=0.02, rtol=2e-3, err_msg=name)
    assert table["key"].equals(table["uid"])
    assert table["width"][0].as_py() == 100
    assert table["caption"][0].as_py().startswith("caption 0")


def test_other_columns_stay_available_to_filter(datacomp, tmp_path):
    source = open_embeddings(datacomp[0], "b32", None, 0.0)
    manifest = score_embeddings(source, tmp_path / "s", EXACT)
    where = "clip_l14_similarity_score > 0.5 AND url LIKE 'http%' AND len(face_bboxes) = 1"
    subset = subset_of((tmp_path / "s", manifest), where=where)
    table = read_scores(tmp_path / "s", manifest)
    assert len(subset.selection) == (table["clip_l14_similarity_score"].to_numpy() > 0.5).sum()
    assert table["source_similarity"].equals(table["uid"])
    out = io.BytesIO()
    write_keys(subset, out)
    assert len(out.getvalue().splitlines()) == len(subset.selection)
    with pytest.raises(OutputError, match="no tars behind them: give --format uids"):
        write_tar_folder(subset, tmp_path / "kept", EmitConfig())
    assert not (tmp_path / "kept").exists()


def test_files_that_do_not_align_or_open_are_recorded_and_the_others_go_on(datacomp, tmp_path):
    folder, _, _ = datacomp
    table = pq.read_table(folder / "00000000.parquet")
    pq.write_table(table.slice(0, 39), folder / "00000002.parquet")
    (folder / "00000002.npz").write_bytes((folder / "00000000.npz").read_bytes())
    pq.write_table(table, folder / "00000003.parquet")
    (folder / "00000003.npz").write_bytes(b"PK no zip")
    source = open_embeddings(folder, "l14", None, 0.0)
    manifest = score_embeddings(source, tmp_path / "s", EXACT)
    counts = {shard.name: shard.failures for shard in manifest.shards}
    assert counts["00000002"] == {"misaligned_rows": 1}
    assert counts["00000003"] == {"broken_file": 1}
    assert manifest.rows == 88


def test_clip_retrieval_output_of_a_run_gives_the_runs_own_scores(scored, tmp_path):
    folder, run = scored
    source = open_embeddings(folder / "embeddings", "l14", run.model.logit_scale, 0.0)
    manifest = score_embeddings(source, tmp_path / "s", EXACT)
    found, expected = read_scores(tmp_path / "s", manifest), read_scores(folder, run)
    assert found["key"].equals(expected["key"])
    for name in SCORE_COLUMNS:
        np.testing.assert_allclose(found[name], expected[name], atol=2e-3, rtol=2e-3, err_msg=name)


def test_what_is_not_said_is_not_guessed(scored, tmp_path):
    with pytest.raises(ModelError, match="give --logit-scale"):
        open_embeddings(scored[0] / "embeddings", "l14", None, 0.0)
    with pytest.raises(InputError, match="holds no embeddings that clipdre knows"):
        open_embeddings(tmp_path, "l14", None, 0.0)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "a.npz").write_bytes(b"")
    with pytest.raises(InputError, match="none of the embedding files"):
        open_embeddings(tmp_path, "l14", None, 0.0)


def test_pickled_arrays_are_not_loaded(datacomp, tmp_path):
    folder, _, _ = datacomp
    np.savez(
        folder / "00000001.npz",
        l14_img=np.array([{"x": 1}] * 50, dtype=object),
        l14_txt=np.zeros((50, 768)),
    )
    manifest = score_embeddings(open_embeddings(folder, "l14", None, 0.0), tmp_path / "s", EXACT)
    assert manifest.shards[1].failures == {"broken_file": 1}


def test_shards_can_point_at_the_tars(scored, pool, tmp_path):
    """Scores from embeddings alone, samples taken by key from the tars they were made of."""
    folder, run = scored
    source = open_embeddings(folder / "embeddings", "l14", run.model.logit_scale, 0.0)
    manifest = score_embeddings(source, tmp_path / "s", EXACT)
    subset = subset_of((tmp_path / "s", manifest), by="kl_text", top=40)
    urls = sorted(str(path) for path in pool.glob("*.tar"))
    write_tar_folder(relocated(subset.selection, urls), tmp_path / "kept", EmitConfig())
    source_members = {}
    for url in urls:
        with tarfile.open(url) as tar:
            source_members |= {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    kept = pq.read_table(tmp_path / "kept" / "00000000.parquet")["key"].to_pylist()
    assert kept == rows_of(subset)["key"].to_pylist()
    with tarfile.open(tmp_path / "kept" / "00000000.tar") as tar:
        found = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    assert found == {
        f"{key}.{suffix}": source_members[f"{key}.{suffix}"]
        for key in kept
        for suffix in ("png", "txt", "json")
    }
    with pytest.raises(InputError, match="are in none of the --shards"):
        relocated(subset.selection, urls[:1])


def test_samples_that_share_a_uid_are_all_found(tmp_path):
    (tmp_path / "pool").mkdir()
    members = [m for n in range(4) for m in pair(str(n), f"c {n}", seed=n, uid="a" * 32)]
    tar = write_tar(tmp_path / "pool" / "a.tar", members)
    scores, manifest = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
    tar.rename(tmp_path / "pool" / "b.tar")
    table = rows_of(relocated(chosen((scores, manifest)), [str(tmp_path / "pool" / "b.tar")]))
    assert table["key"].to_pylist() == ["0", "1", "2", "3"]


def test_uids_are_datacomps_subset_file(datacomp, tmp_path):
    source = open_embeddings(datacomp[0], "l14", None, 0.0)
    manifest = score_embeddings(source, tmp_path / "s", EXACT)
    subset, out = subset_of((tmp_path / "s", manifest), by="log_ratio", top=20), io.BytesIO()
    write_uids(subset, out)
    out.seek(0)
    found = np.load(out)
    uids = rows_of(subset)["uid"].to_pylist()
    expected = np.array([divmod(int(u, 16), 2**64) for u in uids], dtype=np.dtype("u8,u8"))
    expected.sort()
    assert found.dtype == np.dtype("u8,u8")
    assert (found == expected).all()
