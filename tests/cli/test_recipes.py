import re
import tomllib

import pytest

from clipdre.selecting.recipes import FOLDER, read_recipe, recipe_names
from tests.cli.running import error_of, printed, rows_of


def test_lists_every_recipe_on_stdout(run):
    found = run("recipes")
    rows = rows_of(printed(found))
    assert found.stderr == ""
    assert set(recipe_names()) <= set(rows)
    dc = tomllib.loads((FOLDER / "dc.toml").read_text())
    title, options = rows["dc"]
    assert dc["title"].startswith(title)  # a long one is folded
    assert options == "budget=25%, side=text"


@pytest.mark.parametrize("name", recipe_names())
def test_prints_a_recipe_to_copy(run, name):
    text = printed(run(f"recipes {name}"))
    assert tomllib.loads(text)["title"] == read_recipe(name).title


def test_an_unknown_recipe_is_refused(run):
    assert error_of(run("recipes klx"), 1) == "clipdre has no recipe 'klx': did you mean kl or klr?"
    error = error_of(run("recipes nosuch"), 1)
    assert error == f"clipdre has no recipe 'nosuch': choose from {', '.join(recipe_names())}"


def test_wrong_usage(run):
    assert error_of(run("recipes a b"), 2) == (
        "unexpected argument b: see 'clipdre recipes --help'"
    )


SETTINGS = {"laion2b": "--set threshold=0.1", "datacomp-basic": "--set side=1"}


@pytest.mark.parametrize("name", [name for name in recipe_names() if read_recipe(name).measures])
def test_a_recipe_names_the_commands_that_measure_what_it_needs(run, scores, name):
    keep = f"filter scores --recipe {name} {SETTINGS.get(name, '')} --format keys -o -"
    error = error_of(run(keep), 1)
    assert error.startswith(f"recipe {name} needs {', '.join(read_recipe(name).measures)}, which ")
    commands = re.findall(r"'clipdre (measure .*?)'", error)
    assert commands
    for command in commands:
        printed(run(command.replace("TARGET", "scores").replace("TEXT", "circle")))
    assert 0 < len(printed(run(keep)).splitlines()) < 300
