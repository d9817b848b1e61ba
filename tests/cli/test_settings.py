"""Options from a file and from the environment."""

import json

import pytest

from tests.cli.running import TINY, error_of, printed


@pytest.fixture
def config(tmp_path):
    def write(text):
        (tmp_path / "c.toml").write_text(text)
        return "--config c.toml"

    return write


def keys(found):
    return printed(found).splitlines()


def test_a_file_sets_options_of_each_command(run, scored, config):
    options = config("""
[filter]
by = "kl_text"
top = 12
time_limit = 30.5
[emit]
shard-size = "1k"
""")
    plain = keys(run(f"filter {scored[0]} --by kl_text --top 12 --format keys -o -"))
    assert keys(run(f"{options} filter {scored[0]} --format keys -o -")) == plain
    # The command line comes first.
    assert len(keys(run(f"{options} filter {scored[0]} --top 3 --format keys -o -"))) == 3


def test_the_environment_comes_between(run, scored, config, monkeypatch):
    options = config("filter = {by = 'kl_text', top = 12}")
    command = f"filter {scored[0]} --format keys -o -"
    monkeypatch.setenv("CLIPDRE_FILTER_TOP", "5")
    assert len(keys(run(f"{options} {command}"))) == 5
    monkeypatch.setenv("CLIPDRE_CONFIG", "c.toml")
    assert len(keys(run(command))) == 5
    assert len(keys(run(f"{command} --top 4"))) == 4


def test_variables_are_named_like_options(run, scored, monkeypatch, tmp_path):
    """Also where Python has another name for the option."""
    monkeypatch.setenv("CLIPDRE_FILTER_ALL", "1")
    assert len(keys(run(f"filter {scored[0]} --format keys -o -"))) == 300
    monkeypatch.delenv("CLIPDRE_FILTER_ALL")
    monkeypatch.setenv("CLIPDRE_FILTER_RECIPE", "kl log-ratio")
    found = json.loads(printed(run(f"filter {scored[0]} --budget 9 --dry-run --json")))
    assert [selection["name"] for selection in found["selections"]] == ["kl", "log-ratio"]


def test_lists_flags_and_scorers_in_a_file(run, scores, config):
    options = config("""
measure.prompt-weight.prompt = ["a circle", "a square"]
filter.recipe = ["kl", "log-ratio"]
filter.dry-run = true
filter.json = true
filter.budget = "10%"
""")
    assert printed(run(f"{options} measure {scores} prompt-weight")).startswith(str(scores))
    found = json.loads(printed(run(f"{options} filter {scores}")))
    assert [selection["kept"] for selection in found["selections"]] == [30, 30]


def test_rules_hold_for_values_from_a_file(run, scored, config):
    options = config("filter = {top = 3, sample = 4}")
    error = error_of(run(f"{options} filter {scored[0]} --by width -o x"), 2)
    assert error == "--top cannot be used with --sample: drop --top or --sample"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("scor.model = 'x'", "c.toml has no command 'scor': did you mean score"),
        (
            "[score]\nbatch_sise = 3",
            "c.toml [score] has no option 'batch-sise': did you mean batch-s",
        ),
        (
            "measure.normsin.x = 1",
            "c.toml [measure] has no command 'normsin': did you mean normsim",
        ),
        (
            "version = true",
            "c.toml sets 'version' outside of a command: put it below the name of one, such as [sc",
        ),
        ("xyz.b = 1", "c.toml has no command 'xyz': use score, info, "),
        ("#" * 1_000_001, "cannot read c.toml (it has more than 1,000,000 characters)"),
        ("score = 3", "c.toml [score] is not a table of options"),
        ("score.bulk = [1]", "c.toml [score] bulk takes one value"),
        ("score.bulk = {a = 1}", "c.toml [score] bulk takes one value"),
        ("score.bulk", "cannot read c.toml (Expected '=' after a key"),
        ("\x00", "cannot read c.toml ("),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(run, config, text, problem):
    options = config(text)
    error = error_of(run(f"{options} score pool -o s {TINY}"), 2)
    assert error.startswith(f"invalid value for --config: {problem}")


def test_a_value_is_checked_like_one_on_the_command_line(run, config):
    options = config("score.bulk = 'many'")
    error = error_of(run(f"{options} score pool -o s {TINY}"), 2)
    assert error.startswith("invalid value for --bulk: 'many' is not a count")


def test_a_missing_file_is_refused(run, monkeypatch):
    expected = "invalid value for --config: cannot read no.toml (No such file or directory)"
    assert error_of(run("--config no.toml recipes"), 2) == expected
    monkeypatch.setenv("CLIPDRE_CONFIG", "no.toml")
    assert error_of(run("recipes"), 2) == expected


@pytest.mark.parametrize("name", ["VERSION", "HELP", "INSTALL_COMPLETION", "SCORES", "HOME"])
def test_variables_of_others_do_no_harm(run, monkeypatch, name):
    monkeypatch.setenv(f"CLIPDRE_{name}", "0.1")
    found = run("recipes")
    assert "Recipes" in printed(found)
    assert found.stderr == ""
    assert "no such shard" in error_of(run("score nowhere -o s"), 1)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("FILTER_TPO", "did you mean CLIPDRE_FILTER_TOP?"),
        ("FITLER_TOP", "did you mean CLIPDRE_FILTER_TOP?"),
        ("BATCH_SIZE", "did you mean CLIPDRE_SCORE_BATCH_SIZE"),
        ("SCORE_BATCHSIZE", "did you mean CLIPDRE_SCORE_BATCH_SIZE"),
        ("SCORE_SHARDS", ""),
        ("FILTER_JOINED", ""),
        ("MEASURE_NORMSIM_TARGTE", "did you mean CLIPDRE_MEASURE_NORMSIM_TARGET "),
        ("SCORE_HELP", ""),
    ],
)
def test_misspelt_variables_are_named(run, monkeypatch, name, meant):
    monkeypatch.setenv(f"CLIPDRE_{name}", "1")
    found = run("recipes")
    assert "Recipes" in printed(found)
    warning = f"clipdre: warning: CLIPDRE_{name} sets no option: {meant}"
    assert found.stderr.startswith(warning)
    assert found.stderr.count("\n") == 1
