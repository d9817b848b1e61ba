"""Scores of inner products: vectors of any length, against the same sums in float64."""

import json

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

import clipdre
from clipdre.config import EstimateConfig, MeasureConfig, ReferenceMethod, RunConfig
from clipdre.core.modality import Modality
from clipdre.core.scores import INNER_PRODUCT
from clipdre.errors import ScoresError, UsageError
from clipdre.estimating.check import check_reference
from clipdre.formats.folders.columns import DUPLICATES, GROUP, ColumnFolder
from clipdre.formats.folders.embeddings import pool_of
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import read_manifest
from clipdre.looking.counterparts import Model
from clipdre.pipelines.measure import measure
from clipdre.pipelines.score import score_stored
from clipdre.scorers.conformity import Conformity
from clipdre.sql.query import ScoreQuery
from tests.core import oracle
from tests.helpers import read_failures, read_scores

PAIRS, D, SCALE, BIAS = 600, 24, 4.0, -1.5
EXACT = EstimateConfig(ReferenceMethod.EXACT)
STRATIFIED = EstimateConfig(ReferenceMethod.STRATIFIED, neighbors=200, bulk=256)
COLUMNS = ("log_ratio", "negcliploss", "kl_image", "kl_text", "klr_image", "klr_text")


def vectors(seed=0, n=PAIRS):
    """Matching pairs with lengths from 0.1 to 5; the last 20 have the directions of the first."""
    rng = np.random.default_rng(seed)
    images, texts = oracle.clustered_pool(seed, n, D, noise=0.8, gap=0.2)
    images[-20:], texts[-20:] = images[:20], texts[:20]
    lengths = np.exp(rng.uniform(np.log(0.1), np.log(5), size=(2, n, 1)))
    return (images * lengths[0]).astype(np.float32), (texts * lengths[1]).astype(np.float32)


def written(folder, images, texts, name="key"):
    """A folder in clip-retrieval's layout, of two files."""
    for n, rows in enumerate(np.array_split(np.arange(len(images)), 2)):
        for part, values in (("img", images), ("text", texts)):
            path = folder / f"{part}_emb" / f"{part}_emb_{n}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, values[rows])
        (folder / "metadata").mkdir(exist_ok=True)
        keys = pa.table({"key": [f"{name}{row}" for row in rows]})
        pq.write_table(keys, folder / "metadata" / f"metadata_{n}.parquet")
    return folder


def scored(folder, output, config=EXACT, inner_product=True, **options):
    options = {"logit_scale": SCALE, "logit_bias": BIAS, "device": "cpu"} | options
    return score_stored(folder, output, config, inner_product=inner_product, **options)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Embeddings, and exact scores of their inner products."""
    place = tmp_path_factory.mktemp("inner")
    found = vectors()
    written(place / "made", *found)
    return place / "made", place / "scores", scored(place / "made", place / "scores"), found


@pytest.fixture(scope="module")
def expected(pool):
    images, texts = (part.astype(np.float64) for part in pool[3])
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (images, texts)]
    groups = oracle.alike_groups(*unit)
    return oracle.scores(images, texts, SCALE, BIAS, groups), groups


def test_all_columns_are_those_of_the_definition(pool, expected):
    table = read_scores(pool[1], pool[2])
    for name, values in expected[0].items():
        np.testing.assert_allclose(table[name], values, rtol=2e-5, atol=2e-4, err_msg=name)


def test_groups_are_of_directions(pool, expected):
    folder = pool[1]
    table = pa.concat_tables(
        pq.read_table(ColumnFolder(folder / "columns" / DUPLICATES).file(shard.name))
        for shard in pool[2].shards
    )
    leaders = table[GROUP.name].to_numpy()
    same = leaders[:, None] == leaders[None, :]
    assert (same == (expected[1][:, None] == expected[1][None, :])).all()
    assert (leaders[-20:] == leaders[:20]).all()


@pytest.mark.parametrize("column", COLUMNS)
def test_stratified_is_close_to_exact(pool, tmp_path_factory, column):
    folder = tmp_path_factory.getbasetemp() / "stratified"
    manifest = scored(pool[0], folder, STRATIFIED)
    assert manifest.reference.method == "stratified"
    found = np.asarray(read_scores(folder, manifest)[column])
    exact = np.asarray(read_scores(pool[1], pool[2])[column])
    assert spearmanr(found, exact)[0] >= 0.998
    assert np.sqrt(np.mean((found - exact) ** 2)) <= 0.05
    for near in manifest.reference.near.values():
        assert near.mass >= 0.99
        assert near.share < 0.9


def test_a_sample_is_of_inner_products_too(pool, tmp_path):
    manifest = scored(pool[0], tmp_path / "s", EstimateConfig(ReferenceMethod.SAMPLE, bulk=512))
    found = np.asarray(read_scores(tmp_path / "s", manifest)["klr_image"])
    exact = np.asarray(read_scores(pool[1], pool[2])["klr_image"])
    assert spearmanr(found, exact)[0] > 0.98
    check = check_reference(ScoreFolder(tmp_path / "s"), manifest)
    np.testing.assert_allclose(
        check.checked["klr_image"][0],
        exact[_checked_rows(manifest, tmp_path / "s")],
        atol=1e-3,
    )


def _checked_rows(manifest, folder):
    hashes = np.asarray(read_scores(folder, manifest)["key_hash"])
    order = np.argsort(hashes, kind="stable")
    return order[len(order) // 2 :][:256]


def test_vectors_are_stored_as_they_were_given(pool):
    found = pool_of(ScoreFolder(pool[1]), pool[2])
    assert found.has_lengths
    for modality, given in zip(Modality, pool[3], strict=True):
        np.testing.assert_array_equal(found.read(modality, 0, PAIRS), given)
        directions = found.directions.read(modality, 0, PAIRS)
        np.testing.assert_allclose(directions.norm(dim=1), 1, rtol=1e-6)


def test_records_and_columns_name_what_they_are(pool):
    manifest = pool[2]
    assert manifest.model.inner_product
    assert manifest.reference.inner_product
    described = {c.name: c for c in ScoreQuery(ScoreFolder(pool[1]), manifest).described()}
    assert described["similarity"] == INNER_PRODUCT
    raw = json.loads((pool[1] / "manifest.json").read_text())
    assert raw["model"]["inner_product"] is True


def test_scorers_are_given_unit_vectors(pool, tmp_path):
    measure(ScoreFolder(pool[1]), pool[2], Conformity(), MeasureConfig(device="cpu"))
    table = clipdre.open_scores(pool[1]).dataset().to_table()
    assert "log_ratio" in table.column_names
    columns = pa.concat_tables(
        pq.read_table(ColumnFolder(pool[1] / "columns" / "conformity").file(shard.name))
        for shard in pool[2].shards
    )
    images = pool[3][0] / np.linalg.norm(pool[3][0], axis=1, keepdims=True)
    cosines = images @ images.T
    mean = (cosines.sum(axis=1) - 1) / (PAIRS - 1)
    np.testing.assert_allclose(columns["conformity_image"], mean, atol=1e-3)


def test_counterparts_are_those_of_the_logits(pool):
    places = np.array([3, 400])
    found = Model(ScoreQuery(ScoreFolder(pool[1]), pool[2])).log_ratios(places)
    table = read_scores(pool[1], pool[2])
    np.testing.assert_allclose(np.diag(found), np.asarray(table["log_ratio"])[places], atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e-12, 1e12, 1e30])
def test_vectors_that_have_no_logits_are_failures(tmp_path, value):
    images, texts = vectors(seed=1, n=40)
    images, texts = images.astype(np.float64), texts.astype(np.float64)
    images[7] = value
    manifest = scored(written(tmp_path / "made", images, texts), tmp_path / "scores")
    (failure,) = read_failures(tmp_path / "scores", manifest)
    assert (failure["key"], failure["reason"]) == ("key7", "non_finite_embedding")
    assert manifest.rows == 39
    table = read_scores(tmp_path / "scores", manifest)
    assert all(np.isfinite(np.asarray(table[c])).all() for c in (*COLUMNS, "dw_text", "dc_image"))


def test_lengths_beyond_fp16_are_scored(tmp_path):
    images, texts = vectors(seed=2, n=50)
    manifest = scored(written(tmp_path / "a", images, texts), tmp_path / "b")
    large = scored(
        written(tmp_path / "c", images * 1e6, texts * 1e-7), tmp_path / "d", logit_scale=10 * SCALE
    )
    before, after = read_scores(tmp_path / "b", manifest), read_scores(tmp_path / "d", large)
    for name in COLUMNS:
        np.testing.assert_allclose(after[name], before[name], atol=1e-4)


def test_a_run_of_the_other_kind_is_refused_by_name(pool, tmp_path):
    with pytest.raises(ScoresError, match=r"differs in model inner_product \("):
        scored(pool[0], pool[1], inner_product=False)
    assert scored(pool[0], pool[1]) == pool[2]


def test_a_reference_of_the_other_kind_is_refused(pool, tmp_path):
    saved = EstimateConfig(saved=str(pool[1]))
    with pytest.raises(ScoresError, match="is of inner products, and these scores are of cosines"):
        scored(pool[0], tmp_path / "a", saved, inner_product=False)
    scored(pool[0], tmp_path / "cosines", inner_product=False)
    other = EstimateConfig(saved=str(tmp_path / "cosines"))
    with pytest.raises(ScoresError, match="is of cosines, and these scores are of inner products"):
        scored(pool[0], tmp_path / "b", other)


@pytest.mark.parametrize("config", [EXACT, STRATIFIED])
def test_a_saved_reference_leaves_out_pairs_of_the_same_directions(pool, tmp_path, config):
    reference = tmp_path / "reference"
    scored(pool[0], reference, config)
    images, texts = pool[3]
    given = written(tmp_path / "made", 0.7 * images[:50], 2 * texts[:50], name="other")
    manifest = scored(given, tmp_path / "scores", EstimateConfig(saved=str(reference)))
    table = read_scores(tmp_path / "scores", manifest)
    found, error = (np.asarray(table[f"log_ratio_image{end}"]) for end in ("", "_se"))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (images, texts)]
    groups = oracle.alike_groups(*(part.astype(np.float64) for part in unit))
    logits = SCALE * 0.7 * images[:50].astype(np.float64) @ texts.astype(np.float64).T + BIAS
    for row in range(50):
        left = logits[row, groups != groups[row]]
        own = SCALE * 1.4 * float(images[row] @ texts[row]) + BIAS
        partition = left.max() + np.log(np.mean(np.exp(left - left.max())))
        assert found[row] == pytest.approx(own - partition, abs=1e-3 + 4 * float(error[row]))


def test_a_score_folder_is_scored_again_as_it_was(pool, tmp_path):
    manifest = score_stored(pool[1], tmp_path / "again", STRATIFIED, device="cpu")
    assert manifest.model == pool[2].model
    with pytest.raises(UsageError, match="records the scale and bias of its model, and whether"):
        score_stored(pool[1], tmp_path / "other", STRATIFIED, inner_product=True, device="cpu")


def test_vectors_of_another_kind_are_not_those_of_the_scores(pool, tmp_path):
    scored(pool[0], tmp_path / "cosines", inner_product=False)
    folder = ScoreFolder(tmp_path / "cosines")
    manifest = replace_model(tmp_path / "cosines", inner_product=True)
    with pytest.raises(ScoresError, match="are not those of the scores"):
        pool_of(folder, manifest)


def replace_model(folder, **changes):
    found = read_manifest(folder)
    return msgspec.structs.replace(found, model=msgspec.structs.replace(found.model, **changes))


def test_arrays_and_folders_have_the_same_ratios(pool):
    images, texts = (part[:-20] for part in pool[3])
    found = clipdre.density_ratio(
        images, texts, logit_scale=SCALE, logit_bias=BIAS, inner_product=True
    )
    wanted = oracle.scores(images.astype(np.float64), texts.astype(np.float64), SCALE, BIAS)
    np.testing.assert_allclose(found, wanted["log_ratio"], atol=1e-6)


def test_an_unfinished_run_of_inner_products_resumes(pool, tmp_path):
    scored(pool[0], tmp_path / "s")
    path = tmp_path / "s" / "embeddings" / "img_emb" / "img_emb_0.npy"
    damaged = path.read_bytes()[:-4]
    path.write_bytes(damaged)
    msgspec.structs.replace(read_manifest(tmp_path / "s"), complete=False).write(tmp_path / "s")
    again = scored(pool[0], tmp_path / "s", run=RunConfig())
    assert read_scores(tmp_path / "s", again).equals(read_scores(pool[1], pool[2]))
