"""The public names: their examples run as they stand, and the command line has the same names."""

import doctest
import inspect
import sys
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

import clipdre
from clipdre.cli.main import app
from clipdre.config import EncodeConfig, EstimateConfig, ReadConfig
from clipdre.errors import ClipdreError, OutputError, ScoresError, SelectionError, UsageError
from clipdre.scorers.prompt_weight import PromptWeight
from clipdre.truth.pool import NOISE, write_pool
from tests.core import oracle
from tests.helpers import TINY, read_scores, tiny_score

NAMES = [
    "Scores",
    "check_reference",
    "compare",
    "density_ratio",
    "diagnose",
    "effective_sample_size",
    "emit",
    "export",
    "importance_weights",
    "kl_divergence",
    "look",
    "measure",
    "open_scores",
    "preview",
    "reverse_kl_divergence",
    "score",
    "score_embeddings",
    "select",
    "select_listed",
    "summarize",
]
FUNCTIONS = [name for name in NAMES if name != "Scores"]
GROUP = typer.main.get_command(app)


def parameters(name):
    return list(inspect.signature(getattr(clipdre, name)).parameters.values())


def options(command):
    return {parameter.name for parameter in GROUP.commands[command].params}


class TestNames:
    def test_are_these(self):
        assert clipdre.__all__ == NAMES
        assert set(dir(clipdre)) == {*NAMES, "__version__"}
        with pytest.raises(AttributeError, match="module 'clipdre' has no attribute 'nosuch'"):
            _ = clipdre.nosuch

    @pytest.mark.parametrize("name", NAMES)
    def test_have_an_example(self, name):
        doc = inspect.getdoc(getattr(clipdre, name))
        assert ">>> import clipdre" in doc
        assert ("clipdre.open_scores(" if name == "Scores" else f"clipdre.{name}(") in doc

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_have_explicit_parameters(self, name):
        kinds = {parameter.kind for parameter in parameters(name)}
        positional, keyword = (
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        )
        assert kinds <= {positional, keyword}
        for parameter in parameters(name):
            is_required = parameter.default is inspect.Parameter.empty
            assert is_required == (parameter.kind is positional) or parameter.name == "logit_scale"
            assert parameter.annotation is not inspect.Parameter.empty


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, noise in (("clean", {}), ("pool", NOISE)):
        write_pool(tmp_path / "demo" / name, 400, seed=1, noise=noise)
        tiny_score(tmp_path / "demo" / name, tmp_path / "demo" / f"scores-{name}", TINY)
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    for name in NAMES:
        (example,) = finder.find(getattr(clipdre, name), name, globs={})
        assert runner.run(example).failed == 0, name
    assert runner.tries > 40


MESSAGES = ("quiet", "log_file")
# Options of commands that are parameters of `open_scores`.
OPENING = ("scratch",)


class TestCommandLine:
    """A command and its function have the same names for the same things."""

    def test_select_and_emit_are_filter(self):
        selecting = {parameter.name for parameter in parameters("select")[1:]}
        writing = {parameter.name for parameter in parameters("emit")[1:]}
        only_shell = {"scores", "help", "dry_run", "json", "shuffle", "every", *MESSAGES, *OPENING}
        assert options("filter") - only_shell == (selecting | writing) - {"shuffle_seed"}
        assert options("emit") - {"keys", *only_shell} == writing - {"shuffle_seed"} | {"seed"}

    def test_compare(self):
        comparing = {parameter.name for parameter in parameters("compare")[1:]}
        assert comparing == {"truth", "sampled"} <= options("compare")

    def test_score(self):
        configs = {f.name for config in (ReadConfig, EncodeConfig) for f in fields(config)}
        configs |= {f.name for f in fields(EstimateConfig)}
        functions = {p.name for name in ("score", "score_embeddings") for p in parameters(name)}
        only_shell = {"help", "reference", "normalize", "image_key", "text_key", *MESSAGES}
        only_shell |= {"dry_run", "limit", "json"}
        assert options("score") - only_shell <= configs | functions
        only_python = {"read", "encode", "estimate"}  # whose fields are the options
        assert functions - only_python <= options("score")

    def test_measure(self):
        command = GROUP.commands["measure"].get_command(None, "prompt-weight")
        settings = {field.name for field in fields(PromptWeight)}
        common = {parameter.name for parameter in command.params} - settings - {"help", *MESSAGES}
        common -= {*OPENING}
        assert common == {p.name for p in parameters("measure")} - {"scores", "scorer", "settings"}

    def test_diagnose_is_doctor(self):
        reading = {"image_key", "text_key"} | {f.name for f in fields(ReadConfig)}
        found = options("doctor") - {"help", "json", *MESSAGES} - reading | {"decode", "read"}
        assert found == {parameter.name for parameter in parameters("diagnose")}


@pytest.mark.parametrize("bias", [0.0, -10.0])
def test_arrays_against_the_oracle(bias):
    rng = np.random.default_rng(0)
    images, texts = oracle.clustered_pool(1, n=60, d=16, noise=0.6)
    expected = oracle.scores(images, texts, 100.0, bias)
    given = images * rng.uniform(1, 5, (60, 1)), texts * rng.uniform(1, 5, (60, 1))
    model = {"logit_scale": 100.0, "logit_bias": bias}
    np.testing.assert_allclose(clipdre.density_ratio(*given, **model), expected["log_ratio"])
    for function, name in (
        (clipdre.kl_divergence, "kl"),
        (clipdre.reverse_kl_divergence, "klr"),
        (clipdre.effective_sample_size, "ess"),
    ):
        for found, modality in zip(function(*given, **model), ("image", "text"), strict=True):
            np.testing.assert_allclose(found, expected[f"{name}_{modality}"], atol=1e-9)


def test_importance_weights_against_their_formula():
    rng = np.random.default_rng(0)
    images, prompts = oracle.unit_rows(rng, 50, 8), oracle.unit_rows(rng, 3, 8)
    weights = np.exp(4.0 * images @ prompts.T).mean(axis=1)
    found = clipdre.importance_weights(3 * images, prompts, logit_scale=4.0)
    np.testing.assert_allclose(found, weights / weights.mean())


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        ([[1.0, 0.0]], [[1.0, 0.0]], "must hold at least 2 pairs to compare. Got 1"),
        ([[1.0, 0.0]] * 3, [[1.0, 0.0]] * 2, "must have the same shape"),
        ([[1.0, 0.0]] * 2, [[0.0, 0.0]] * 2, "The 'texts' must be .* without zero rows"),
        ([[1.0, np.nan]] * 2, [[0.0, 1.0]] * 2, "The 'images' must be .* finite"),
        ([1.0, 2.0], [1.0, 2.0], r"must be of shape \(n, d\)"),
    ],
)
def test_arrays_that_do_not_pair_are_refused(images, texts, message):
    with pytest.raises(ValueError, match=message):
        clipdre.density_ratio(images, texts, logit_scale=1.0)


def test_a_dataset_reads_the_requested_columns(scored):
    scores = clipdre.open_scores(scored[0])
    table = scores.dataset().to_table(columns=["key", "kl_text"])
    assert table.equals(read_scores(*scored).select(["key", "kl_text"]))
    with pytest.raises(ScoresError, match="not a score folder"):
        clipdre.open_scores(scored[0] / "scores")


def test_a_single_place_is_a_list_of_one(scored, pool, tmp_path):
    one = clipdre.diagnose(pool).samples
    assert one == clipdre.diagnose(str(pool)).samples == clipdre.diagnose([str(pool)]).samples > 0
    scores = clipdre.open_scores(scored[0])
    path = tmp_path / "ages.parquet"
    pq.write_table(pa.table({"key_hash": pa.array([1], pa.uint64()), "age": [3]}), path)
    for joined in (path, str(path), [path]):
        with pytest.raises(SelectionError, match="names none of the pairs"):
            scores.query(joined)


def test_a_query_joins_files(scored, tmp_path):
    table = read_scores(*scored)
    extra = pa.table({"key_hash": table["key_hash"], "extra": range(300)})
    pq.write_table(extra, tmp_path / "extra.parquet")
    scores = clipdre.open_scores(scored[0])
    found = clipdre.select(scores, by="extra", bottom=7, joined=[tmp_path / "extra.parquet"])
    shard, row = found.places
    assert (shard * 100 + row).tolist() == list(range(7))
    (join,) = found.query.joins
    assert (join.by, join.matched, join.pool) == (("key_hash",), 300, 300)
    extra = pa.table({"uid": ["x"] * 300, "key": table["key"], "extra": range(300)})
    pq.write_table(extra, tmp_path / "extra.parquet")
    again = clipdre.select(scores, by="extra", bottom=7, joined=[str(tmp_path)], on="key")
    assert [place.tolist() for place in again.places] == [shard.tolist(), row.tolist()]
    with pytest.raises(UsageError, match="invalid `on` 'name': choose from key_hash, shard,key"):
        scores.query([tmp_path], on="name")
    with pytest.raises(UsageError, match="`on` can only be used with `joined`"):
        scores.query(on="key")


class TestUnusedParameters:
    @pytest.mark.parametrize(
        ("request_", "message"),
        [
            (
                {"recipe": "dc", "by": "width", "top": 5},
                "`top` cannot be used with `recipe`, which says how to rank: "
                "drop `top` or `recipe`",
            ),
            (
                {"recipe": "dc", "by": "width"},
                "`by` cannot be used with `recipe`, which says how to rank: drop `by` or `recipe`",
            ),
            (
                {"bins": 5},
                "`bins` can only be used with `uniform`: add `uniform`, or drop `bins`",
            ),
            (
                {"budget": 5},
                "`budget` can only be used with `recipe`, whose size it sets: "
                "add `recipe`, or drop `budget`",
            ),
        ],
    )
    def test_of_select_are_refused(self, scored, request_, message):
        with pytest.raises(UsageError) as caught:
            clipdre.select(clipdre.open_scores(scored[0]), **request_)
        assert str(caught.value) == message

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                {"format": "keys", "shuffle_seed": 1},
                "`shuffle_seed` can only be used with `format` tar: "
                "set `format` to tar, or drop `shuffle_seed`",
            ),
            (
                {"format": "csv", "shard_size": 5},
                "`shard_size` can only be used with `format` tar: "
                "set `format` to tar, or drop `shard_size`",
            ),
        ],
    )
    def test_of_emit_are_refused(self, scored, tmp_path, settings, message):
        selection = clipdre.select(clipdre.open_scores(scored[0]), sample=3)
        with pytest.raises(UsageError) as caught:
            clipdre.emit(selection, tmp_path / "out", **settings)
        assert str(caught.value) == message
        assert not (tmp_path / "out").exists()


class TestCompare:
    def test_selections_made_apart(self, scored):
        scores = clipdre.open_scores(scored[0])
        a = clipdre.select(scores, by="log_ratio", top=90)
        b = clipdre.select(scores, where="shard = '00001'", by="kl_text", top=60)
        sets = [set(zip(*selection.places, strict=True)) for selection in (a, b)]
        found = clipdre.compare({"a": a, "b": b})
        assert found.jaccard == {("a", "b"): len(sets[0] & sets[1]) / len(sets[0] | sets[1])}
        counts = {name: count for name, (count, _) in found.only.items()}
        assert counts == {"a": len(sets[0] - sets[1]), "b": len(sets[1] - sets[0])}
        captions = read_scores(*scored)["caption"].to_pylist()
        alone = {captions[100 * shard + row] for shard, row in sets[1] - sets[0]}
        assert len(found.only["b"][1]) == 3
        assert set(found.only["b"][1]) <= alone

    def test_recipes_have_names(self, scored):
        scores = clipdre.open_scores(scored[0])
        selections = [clipdre.select(scores, recipe=name) for name in ("dc", "kl")]
        assert list(clipdre.compare(selections).jaccard) == [("dc", "kl")]

    def test_what_cannot_be_compared_is_refused(self, scored, pool, tmp_path):
        scores = clipdre.open_scores(scored[0])
        one = clipdre.select(scores, sample=3)
        tiny_score(pool, tmp_path / "other")
        other = clipdre.select(clipdre.open_scores(tmp_path / "other"), sample=3)
        with pytest.raises(UsageError, match="have the same name: give each a name of its own"):
            clipdre.compare([one, clipdre.select(scores, sample=5)])
        with pytest.raises(UsageError, match="fewer than two selections"):
            clipdre.compare([one])
        with pytest.raises(UsageError, match="of one score folder"):
            clipdre.compare({"a": one, "b": other})


class TestChoices:
    """Values that Python passes as text."""

    def test_unknown_ones_are_refused(self, scored, tmp_path):
        scores = clipdre.open_scores(scored[0])
        selection = clipdre.select(scores, sample=3)
        with pytest.raises(
            UsageError, match="invalid `format` 'tsv': choose from tar, index, keys, "
        ):
            clipdre.emit(selection, tmp_path / "out", format="tsv")
        with pytest.raises(UsageError, match="invalid `architecture` 'l15': choose from b32, l14"):
            clipdre.score_embeddings(tmp_path, tmp_path / "out", architecture="l15")
        with pytest.raises(UsageError, match="unknown scorer norm: did you mean normsim"):
            clipdre.measure(scores, "norm")
        with pytest.raises(SelectionError, match=r"cannot read `names` nowhere \(No such file"):
            clipdre.select_listed(scores, "nowhere")
        with pytest.raises(OutputError, match="exists: choose another `output`, or pass `overw"):
            clipdre.emit(selection, __file__, format="keys")

    def test_a_scorer_may_be_an_object(self, scored, tmp_path):
        import shutil

        folder = shutil.copytree(scored[0], tmp_path / "scores")
        scores = clipdre.open_scores(folder)
        record = clipdre.measure(scores, PromptWeight(("square",)), device="cpu", suffix="a")
        settings = {"prompt": ("square",)}
        again = clipdre.measure(scores, "prompt-weight", settings=settings, suffix="a")
        assert record == again
        assert [c.name for c in record.columns] == ["prompt_weight_a", "prompt_log_weight_a"]


class TestObjects:
    """What a notebook shows, and tables of other libraries."""

    def test_scores_are_shown_in_one_line(self, scored):
        scores = clipdre.open_scores(scored[0])
        path = str(scored[0])
        assert repr(scores) == f"Scores({path!r}: 300 pairs of 3 shards, clipdre-tiny)"
        assert len(scores) == 300
        assert repr(scores.manifest) == "Manifest(300 pairs of 3 shards, clipdre-tiny, complete)"
        assert scores._repr_html_().count("<tr>") == 1 + len(scores.columns)

    def test_a_selection_is_shown_in_one_line(self, scored):
        scores = clipdre.open_scores(scored[0])
        best = clipdre.select(scores, where="width > 0", by="log_ratio", top=30)
        assert repr(best) == "Selection(30 of 300 pairs: where width > 0, top by log_ratio)"
        recipe = clipdre.select(scores, recipe="kl", budget=10)
        assert repr(recipe).startswith("Selection(kl: 10 of 300 pairs: ")
        assert "<td>30</td>" in best._repr_html_()
        listed = clipdre.select(scores, where="'<script>' = caption")
        assert "<script>" not in listed._repr_html_()
        assert "&lt;script&gt;" in listed._repr_html_()

    def test_a_description_is_a_table(self, scored):
        found = clipdre.open_scores(scored[0]).describe()
        assert found.quantiles == clipdre.summarize(clipdre.open_scores(scored[0])).quantiles
        title, header, *rows = repr(found).splitlines()
        assert title.startswith("300 pairs of 300 samples, clipdre-tiny, mean log ratio ")
        assert header.split() == ["column", "5%", "25%", "50%", "75%", "95%"]
        assert [row.split()[0] for row in rows] == list(found.quantiles)
        assert found._repr_html_().count("<tr>") == 1 + len(rows)

    def test_tables_have_all_columns_in_pool_order(self, scored, tmp_path):
        scores, expected = clipdre.open_scores(scored[0]), read_scores(*scored)
        table = scores.to_arrow()
        assert table.column_names == scores.columns
        assert {"log_ratio", "duplicate_rank"} <= set(table.column_names)
        assert table.select(expected.column_names).equals(expected)
        pq.write_table(pa.table({"key": expected["key"], "x": range(300)}), tmp_path / "x.parquet")
        joined = scores.to_arrow(["x", "key"], joined=tmp_path / "x.parquet", on="key")
        assert joined.column_names == ["x", "key"]
        assert joined["x"].to_pylist() == list(range(300))
        with pytest.raises(SelectionError, match="log_ration: did you mean log_ratio"):
            scores.to_arrow(["log_ration"])

    def test_a_selection_gives_keys_and_a_table(self, scored, tmp_path):
        scores = clipdre.open_scores(scored[0])
        best = clipdre.select(scores, by="log_ratio", top=5)
        clipdre.emit(best, tmp_path / "keys.txt", format="keys")
        assert best.keys() == (tmp_path / "keys.txt").read_text().splitlines()
        table = best.table(["log_ratio", "key"])
        assert table.column_names == ["log_ratio", "key"]
        assert sorted(scores.to_arrow()["log_ratio"].to_pylist())[-5:] == sorted(
            table["log_ratio"].to_pylist()
        )
        assert best.table().column_names == scores.columns
        nothing = clipdre.select(scores, where="false")
        assert (nothing.keys(), nothing.table().num_rows) == ([], 0)
        assert nothing.table().column_names == scores.columns
        assert best.places.shard.shape == best.places.row.shape == (5,)

    @pytest.mark.parametrize("package", ["pandas", "polars"])
    def test_optional_packages_give_their_tables(self, scored, package):
        pytest.importorskip(package, reason="optional")
        scores = clipdre.open_scores(scored[0])
        frame = getattr(scores, f"to_{package}")(["key", "kl_text"])
        assert list(frame.columns) == ["key", "kl_text"]
        assert frame["kl_text"].to_list() == read_scores(*scored)["kl_text"].to_pylist()

    @pytest.mark.parametrize("package", ["pandas", "polars"])
    def test_an_optional_package_that_is_missing_is_named(self, scored, monkeypatch, package):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ClipdreError) as caught:
            getattr(clipdre.open_scores(scored[0]), f"to_{package}")()
        expected = f"run pip install {package}, or use to_arrow"
        assert str(caught.value) == f"this needs {package}, which is not installed: {expected}"

    def test_results_have_names(self, scored):
        scores = clipdre.open_scores(scored[0])
        pairs = [[1, 0], [0, 1], [-1, 0]]
        for function in (
            clipdre.kl_divergence,
            clipdre.reverse_kl_divergence,
            clipdre.effective_sample_size,
        ):
            found = function(pairs, pairs, logit_scale=2.0)
            assert found.image is found[0]
            assert found.text is found[1]
        half, few = (clipdre.select(scores, by="log_ratio", top=top) for top in (0.5, 3))
        shard = clipdre.preview(half).shards[0]
        assert (shard.name, shard.rows) == ("00000", 100)
        alone = clipdre.compare({"half": half, "few": few}).only["half"]
        assert (alone.rows, len(alone.captions)) == (147, 3)
        least = clipdre.summarize(scores).least_reliable
        assert (least.column in scores.columns, least.reliability) == (True, 1)


class TestScore:
    def test_takes_strings_and_paths(self, pool, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        scores = clipdre.score(str(pool), "s", model="clipdre-tiny", device="cpu")
        assert (len(scores), scores.manifest.model.name) == (300, "clipdre-tiny")
        again = clipdre.score(pool, tmp_path / "s", model="clipdre-tiny", device="cpu")
        assert again.manifest == scores.manifest

    @pytest.mark.parametrize("name", ["model", "pretrained", "device"])
    def test_says_each_setting_once(self, pool, tmp_path, name):
        with pytest.raises(UsageError, match=f"`{name}` cannot be used with `encode`"):
            clipdre.score(pool, tmp_path / "s", encode=TINY.encode, **{name: "cpu"})

    def test_only_the_default_model_has_default_weights(self, pool, tmp_path, monkeypatch):
        seen = []
        monkeypatch.setattr("clipdre.pipelines.score.score", lambda _, __, c, ___: seen.append(c))
        for options in ({}, {"model": "ViT-B-32"}, {"pretrained": tmp_path / "x.pt"}):
            clipdre.score(pool, tmp_path / "s", **options)
        named = [(c.encode.model, c.encode.pretrained) for c in seen]
        default = EncodeConfig()
        assert named == [
            (default.model, default.pretrained),
            ("ViT-B-32", None),
            (default.model, str(tmp_path / "x.pt")),
        ]
