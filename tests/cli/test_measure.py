import json
import shlex
import shutil
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipdre.cli import measure
from clipdre.cli.usage import ParserError, parser_message
from clipdre.core.columns import Column
from clipdre.formats.folders.columns import DUPLICATES
from clipdre.scorers.base import setting
from clipdre.scorers.registry import scorers
from tests.cli.running import error_of, printed

PROMPT = "measure scores prompt-weight --prompt 'a red circle'"


class Level(StrEnum):
    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True)
class AllKinds:
    """A scorer with a setting of each kind."""

    name: ClassVar = "all-kinds"
    title: ClassVar = "Settings of all kinds"
    source: ClassVar = "this test"
    version: ClassVar = 1
    example: ClassVar = {"needed": "SCORES", "words": ("a b", "c")}

    needed: str = setting("A text.")
    words: tuple[str, ...] = setting("Several texts.")
    more: tuple[str, ...] = setting("Several texts, or none.", default=())
    number: float = setting("A number.", default=1.5)
    count: int = setting("A count.", default=2)
    level: Level = setting("A choice.", default=Level.LOW)  # noqa: RUF009
    loud: bool = setting("A switch.", default=False)

    def columns(self):
        return (Column("kinds", "", "none"),)


@pytest.fixture
def parsed(monkeypatch):
    """Parse options of `AllKinds`; returns the scorer and the common options."""
    seen = []

    def note(folder, scorer, config, part):
        names = ("suffix", "device", "overwrite")
        seen.append((scorer, {name: getattr(config, name) for name in names}))

    monkeypatch.setattr(measure, "_measure", note)

    def parse(options):
        command = measure.scorer_command(AllKinds)
        command.main(shlex.split(options), standalone_mode=False)
        return seen.pop()

    return parse


def records(folder):
    """Settings of each measured column folder."""
    return {
        path.parent.name: json.loads(path.read_bytes())["settings"]
        for path in (folder / "columns").glob("*/record.json")
    }


def column(folder, place, name):
    files = sorted((folder / "columns" / place).glob("*.parquet"))
    return np.concatenate([pq.read_table(file)[name].to_numpy() for file in files])


def test_prints_the_folder_of_the_columns(run, scores):
    found = run(PROMPT)
    assert printed(found) == "scores/columns/prompt-weight\n"
    lines = found.stderr.splitlines()
    assert lines[0] == "measured prompt_weight, prompt_log_weight for 300 rows"
    weights = column(scores, "prompt-weight", "prompt_weight").astype(float)
    ess = weights.sum() ** 2 / (weights**2).sum()
    (line,) = [line for line in lines if line.startswith("prompt_weight_ess: ")]
    assert float(line.partition(": ")[2]) == pytest.approx(ess, rel=1e-4)


def test_the_columns_are_there_to_filter_by(run, scores):
    printed(run(PROMPT))
    command = "filter scores --by prompt_weight --top 20 --format jsonl -o -"
    rows = [json.loads(line) for line in printed(run(command)).splitlines()]
    weights = column(scores, "prompt-weight", "prompt_weight")
    assert sorted(row["prompt_weight"] for row in rows) == sorted(weights)[-20:]


def test_a_recipe_can_use_the_columns(run, scores):
    recipe = "filter scores --recipe log-ratio-weighted --budget 10 --format keys -o -"
    error = error_of(run(recipe), 1)
    assert error.startswith("recipe log-ratio-weighted needs prompt_weight, which these scores")
    printed(run(PROMPT))
    assert len(printed(run(recipe)).splitlines()) == 10


class TestOptions:
    def test_defaults_are_those_of_the_dataclass(self, parsed):
        scorer, common = parsed("--needed x --words a")
        assert scorer == AllKinds("x", ("a",))
        assert common == {"suffix": "", "device": "auto", "overwrite": False}

    def test_values_have_the_fields_types(self, parsed):
        options = "--number 2 --count 3 --level high --loud --suffix s --device cpu --overwrite"
        words = "--words b --words a --more c --more c"
        scorer, common = parsed(f"--needed 'x y' {words} {options}")
        assert scorer == AllKinds("x y", ("b", "a"), ("c", "c"), 2.0, 3, Level.HIGH, True)
        assert type(scorer.number) is float
        assert type(scorer.level) is Level
        assert common == {"suffix": "s", "device": "cpu", "overwrite": True}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ("--words a", "missing option --needed: see "),
            ("--needed x", "missing option --words: see "),
            ("--needed x --words a --count 1.5", "invalid value for --count: use a valid integer"),
            ("--needed x --words a --number many", "invalid value for --number: use a valid n"),
            (
                "--needed x --words a --level middle",
                "--level: 'middle' is not one of 'low', 'high'",
            ),
        ],
    )
    def test_missing_and_mistyped_ones_are_refused(self, parsed, options, message):
        with pytest.raises(ParserError) as caught:
            parsed(options)
        assert message in parser_message(caught.value)

    def test_help_and_example_come_from_the_dataclass(self):
        command = measure.scorer_command(AllKinds)
        texts = {parameter.name: parameter.help for parameter in command.params}
        assert texts["needed"] == "A text."
        assert texts["more"] == "Several texts, or none."
        assert command.epilog == (
            "Example:  clipdre measure scores all-kinds --needed target-scores "
            "--words 'a b' --words c"
        )
        assert command.help.splitlines() == ["Settings of all kinds.", "", "Source: this test."]

    def test_repeated_options_are_a_mixture(self, run, scores):
        printed(run(f"{PROMPT} --prompt square --negative-prompt blur --modality text"))
        settings = records(scores)["prompt-weight"]
        assert settings["prompt"] == ["a red circle", "square"]
        assert settings["negative_prompt"] == ["blur"]
        assert settings["modality"] == "text"


class TestAgain:
    def test_the_same_settings_are_kept(self, run, scores):
        assert printed(run(PROMPT)) == printed(run(PROMPT)) == "scores/columns/prompt-weight\n"

    def test_other_settings_are_refused_or_replace_the_columns(self, run, scores):
        printed(run(PROMPT))
        before = column(scores, "prompt-weight", "prompt_weight")
        other = PROMPT.replace("red", "blue")
        assert error_of(run(other), 1) == (
            "scores/columns/prompt-weight was measured with other settings "
            "(prompt a red circle then, prompt a blue circle now): "
            "pass --overwrite to replace it, or a --suffix to keep both"
        )
        assert (column(scores, "prompt-weight", "prompt_weight") == before).all()
        printed(run(f"{other} --overwrite"))
        assert records(scores)["prompt-weight"]["prompt"] == ["a blue circle"]
        assert (column(scores, "prompt-weight", "prompt_weight") != before).any()

    def test_a_suffix_keeps_two_settings_side_by_side(self, run, scores):
        printed(run(PROMPT))
        found = run(f"{PROMPT.replace('red', 'blue')} --suffix blue")
        assert printed(found) == "scores/columns/prompt-weight-blue\n"
        assert "measured prompt_weight_blue, prompt_log_weight_blue for" in found.stderr
        for place, name in (
            ("prompt-weight", "prompt_weight"),
            ("prompt-weight-blue", "prompt_weight_blue"),
        ):
            command = f"filter scores --by {name} --top 1 --format jsonl -o -"
            row = json.loads(printed(run(command)))
            assert row[name] == column(scores, place, name).max()
        difference = "prompt_log_weight - prompt_log_weight_blue"
        command = f"filter scores --by '{difference}' --top 1 --format jsonl -o -"
        row = json.loads(printed(run(command)))
        red = column(scores, "prompt-weight", "prompt_log_weight").astype(float)
        blue = column(scores, "prompt-weight-blue", "prompt_log_weight_blue").astype(float)
        found = row["prompt_log_weight"] - row["prompt_log_weight_blue"]
        assert found == pytest.approx((red - blue).max(), abs=1e-6)

    def test_a_killed_run_resumes(self, run, scores):
        printed(run(PROMPT))
        folder = scores / "columns" / "prompt-weight"
        expected = column(scores, "prompt-weight", "prompt_weight")
        (folder / "record.json").unlink()
        (folder / "00001.parquet").unlink()
        error = error_of(run("filter scores --by prompt_weight --top 3 -o out"), 1)
        assert "there is no column prompt_weight" in error
        kept = [folder / "00000.parquet", folder / "00002.parquet"]
        before = [file.stat().st_mtime_ns for file in kept]
        printed(run(PROMPT))
        assert [file.stat().st_mtime_ns for file in kept] == before
        assert (column(scores, "prompt-weight", "prompt_weight") == expected).all()
        assert (folder / "record.json").exists()


class TestNormSim:
    def test_a_score_folder_is_a_target(self, run, scores):
        assert printed(run("measure scores normsim --target scores")) == "scores/columns/normsim\n"
        # Every image is in the target, so its largest cosine is that with itself.
        np.testing.assert_allclose(column(scores, "normsim", "normsim"), 1, atol=1e-3)

    def test_a_target_that_holds_nothing_is_refused(self, run, scores):
        missing = error_of(run("measure scores normsim --target nowhere"), 1)
        assert missing.startswith(f"--target {scores.parent}/nowhere does not exist: check the ")
        (scores.parent / "empty").mkdir()
        error = error_of(run("measure scores normsim --target empty"), 1)
        assert error.startswith(
            f"{scores.parent}/empty holds no embeddings in a known layout: expected "
        )


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("scores nosuch", 2, f"unknown scorer nosuch: there are {', '.join(scorers())}"),
        ("scores prompt-wait", 2, "unknown scorer prompt-wait: did you mean prompt-weight?"),
        (
            "scores norm",
            2,
            "unknown scorer norm: did you mean normsim, conformity or normsim-dynamic?",
        ),
        ("scores", 2, "missing command: see 'clipdre measure --help'"),
        (
            "scores prompt-weight",
            2,
            "missing option --prompt: see 'clipdre measure SCORES prompt-weight --help'",
        ),
        (
            "scores normsim --target x --norm 3",
            2,
            "invalid value for --norm: '3' is not one of 'inf', '2'",
        ),
        (
            "scores normsim --target x --suffix 'A b'",
            2,
            "--suffix 'A b' is not a name: use lower-case letters, digits and underscores",
        ),
        (
            "nowhere normsim --target x",
            1,
            "nowhere is not a score folder (no manifest.json): make one with 'clipdre score'",
        ),
    ],
)
def test_wrong_usage(run, scores, command, code, message):
    assert error_of(run(f"measure {command}"), code) == message
    assert {path.name for path in (scores / "columns").iterdir()} == {DUPLICATES}


def test_no_arguments_show_help(run):
    found = run("measure")
    assert found.exit_code == 2
    assert "normsim" in found.stdout
    assert found.stderr == ""


def test_slices_measure_and_the_same_command_without_them_finishes(run, scored, tmp_path):
    shutil.copytree(scored[0], tmp_path / "s")
    command = "measure s prompt-weight --prompt 'a circle' --device cpu"
    first = run(f"{command} --slice 1/2")
    assert printed(first) == ""
    assert (
        "slice 1/2 has done its part; what other slices have not: log-sums: 1 part"
        in first.stderr.splitlines()
    )
    second = run(f"{command} --slice 2/2")
    assert printed(second) == ""
    assert "slice 2/2 is measured" in second.stderr.splitlines()
    assert printed(run(command)) == "s/columns/prompt-weight\n"
