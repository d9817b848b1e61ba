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
    assert rows["dc"] == [dc["title"], "budget=25%, side=text"]


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
