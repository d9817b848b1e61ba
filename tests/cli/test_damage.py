"""No command ends in a traceback, or waits forever, whatever is wrong with what it reads."""

import faulthandler
import shlex
import shutil
import time
import warnings

import numpy as np
import pytest

from clipdre.cli.main import ORDER
from clipdre.scorers.registry import scorers
from tests.cli import damage as world
from tests.cli.running import TINY

# Seconds that a command may take at most; if one waits forever, so would the tests.
PATIENCE = 20
COMMANDS = {
    "info": ("info scores", "info scores --json"),
    "filter": (
        "filter scores --by log_ratio --top 5 -o out",
        "filter scores --sample 3 -o -",
        "filter scores --recipe kl --recipe log-ratio --dry-run --json",
        "filter scores --recipe ./mine.toml --dry-run",
        "filter scores --with joined.parquet --by log_ratio --top 5 --shards pool -o out",
    ),
    "look": ("look scores --by log_ratio --top 5 -o out", "look scores keys.txt -o -"),
    "compare": ("compare scores log-ratio kl --budget 20%",),
    "emit": ("emit scores --keys keys.txt --format keys -o -",),
    "export": ("export scores -o out.lance",),
    "doctor": ("doctor pool", "doctor pool --json"),
    "recipes": ("recipes ./mine.toml",),
    "scorers": ("scorers",),
    "demo": ("demo out/file",),
    "reference": ("reference scores --json",),
    "measure": (  # these and the next change the scores
        "measure scores normsim --target scores --device cpu",
        "measure scores prompt-weight --prompt red --suffix b --device cpu",
    ),
    "score": (f"score pool -o out {TINY}", f"score pool -o scores {TINY}"),
}
ALL = [line for lines in COMMANDS.values() for line in lines]
RESUME = COMMANDS["score"][1]
INFO, TARS, STREAM, LOOK, EMIT, CHECK = (
    COMMANDS[name][n]
    for name, n in [
        ("info", 1),
        ("filter", 0),
        ("filter", 1),
        ("look", 0),
        ("emit", 0),
        ("reference", 0),
    ]
)


def lines_of(commands):
    """Lines of commands; "filter" is its first line, "select" the others, and "resume" a score."""
    names = {line: line.split()[0] for line in ALL} | {RESUME: "resume"}
    names |= dict.fromkeys(COMMANDS["filter"][1:], "select")
    return [line for line in ALL if names[line] in commands]


def test_every_command_is_tried():
    """A new command has to be added above."""
    assert set(COMMANDS) == set(ORDER)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "world"
    world.make_world(folder)
    return folder


@pytest.fixture
def outcome(run, whole, tmp_path):
    """Damage the world and try commands, which all end well; returns their exit codes."""

    def try_all(damage, lines):
        shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
        damage()
        out = tmp_path / "out"
        was_there = out.exists() or out.is_symlink()
        codes = {}
        for line in lines:
            codes[line] = ended(run, line)
            if not was_there:
                world.remove(out)
        return codes

    return try_all


def ended(run, line):
    """Run a command, check how it ends, and return its exit code."""
    faulthandler.dump_traceback_later(10 * PATIENCE, exit=True)
    started = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = run(line)  # lets exceptions through
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert time.monotonic() - started < PATIENCE, line
    assert done.exit_code in (0, 1, 2), line
    errors = [text for text in done.stderr.splitlines() if "error: " in text]
    reports = line.startswith("doctor") and not errors  # its exit code is a result
    assert len(errors) == (0 if reports else min(done.exit_code, 1)), (line, done.stderr)
    assert all(text.startswith("clipdre: error: ") for text in errors), line
    assert not set("\x1b\0\udcff") & set(done.stderr), line
    return done.exit_code


def test_an_undamaged_world_gives_no_errors(outcome):
    lines = lines_of({*COMMANDS, "select", "resume"} - {"demo"})
    assert outcome(lambda: None, lines) == dict.fromkeys(lines, 0)


@pytest.mark.parametrize("way", world.WAYS)
@pytest.mark.parametrize("file", world.FILES)
def test_other_things_in_the_place_of_a_file(outcome, file, way):
    commands = world.FILES[file].split()
    if file.name == "out" and way in ("missing", "a folder"):
        commands.remove("demo")  # it would run
    codes = outcome(world.replaced(file, world.WAYS[way]), lines_of(commands))
    if file in (world.MANIFEST, world.SCORES, world.SCORES.parent):
        assert codes["info scores"] == 1


@pytest.mark.parametrize(
    ("place", "value"),
    [(place, value) for place, values in world.VALUES.items() for value in values],
)
def test_values_in_the_manifest(outcome, place, value):
    lines = (INFO, TARS) if place[0] == "shards" else (INFO, CHECK)
    outcome(world.in_manifest(*place, value=value), lines)


@pytest.mark.parametrize("name", world.RECORDS)
def test_records_of_columns(outcome, name):
    lines = (INFO, TARS.replace("scores", "scores --distinct"), *lines_of(("measure",)))
    outcome(world.in_record(**world.RECORDS[name]), lines)


@pytest.mark.parametrize("name", world.COLUMNS)
def test_columns_of_the_scores(outcome, name):
    outcome(world.COLUMNS[name], (INFO, TARS, STREAM, LOOK, EMIT))


@pytest.mark.parametrize("name", world.ARRAYS)
@pytest.mark.parametrize("place", [world.IMAGES, world.REFERENCE / "pool_image.npy"])
def test_arrays(outcome, place, name):
    lines = lines_of(("reference", "measure", "resume"))
    outcome(lambda: np.save(place, world.ARRAYS[name]), lines)


@pytest.mark.parametrize("name", scorers())
def test_scorers(outcome, name):
    """Captions are missing, vectors are damaged, and a tar has changed."""

    def damage():
        world.column("caption", None)()
        np.save(world.IMAGES, world.ARRAYS["NaN"])
        (world.SCORES.parents[2] / "pool" / "00000.tar").write_bytes(b"garbage" * 99)

    settings = [
        f"--{option.replace('_', '-')} {shlex.quote(str(value).replace('SCORES', 'scores'))}"
        for option, given in scorers()[name].example.items()
        for value in (given if isinstance(given, tuple) else (given,))
    ]
    outcome(damage, [f"measure scores {name} {' '.join(settings)} --suffix c --device cpu"])


@pytest.mark.parametrize("name", world.RECIPES)
def test_recipes(run, whole, tmp_path, name):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    world.RECIPE.write_text(world.RECIPES[name])
    assert ended(run, "filter scores --recipe ./mine.toml --dry-run") == 1
