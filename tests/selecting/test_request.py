import pytest

from clipdre.errors import SelectionError, UsageError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.selecting.request import Request
from clipdre.selecting.rules import Amount, Rule, Step
from clipdre.selecting.select import select
from clipdre.sql.query import ScoreQuery


@pytest.fixture
def query(scored):
    return ScoreQuery(ScoreFolder(scored[0]), scored[1])


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({}, Step()),
        ({"where": "width > 9"}, Step(where="width > 9")),
        ({"by": "kl_text", "top": "25%"}, Step(by="kl_text", top=Amount(0.25))),
        ({"by": "kl_text", "top": 0.25}, Step(by="kl_text", top=Amount(0.25))),
        ({"by": "kl_text", "bottom": 25}, Step(by="kl_text", bottom=Amount(25))),
        ({"sample": "25"}, Step(sample=Amount(25))),
        (
            {"by": "kl_text", "top": 9, "uniform": True},
            Step(by="kl_text", top=Amount(9), uniform=True, bins=100),
        ),
        (
            {"by": "kl_text", "top": 9, "uniform": True, "bins": 7},
            Step(by="kl_text", top=Amount(9), uniform=True, bins=7),
        ),
        (
            {"by": "kl_text", "balance": "caption", "cap": 2},
            Step(by="kl_text", balance="caption", cap=2),
        ),
    ],
)
def test_options_become_one_step(query, options, step):
    assert Request(**options, seed=3).rules(query) == [Rule((step,), seed=3)]


def test_without_options_all_rows_are_kept(query):
    (rule,) = Request().rules(query)
    assert len(select(query, rule)) == 300


def test_each_recipe_becomes_a_rule(query):
    request = Request(
        where="width > 9", recipe=["log-ratio", "kl"], budget=0.1, settings={}, seed=2
    )
    rules = request.rules(query)
    assert [(rule.name, rule.budget, rule.seed) for rule in rules] == [
        ("log-ratio", Amount(0.1), 2),
        ("kl", Amount(0.1), 2),
    ]
    assert [[step.where for step in rule.steps] for rule in rules] == [["width > 9", None]] * 2


def test_one_recipe_may_be_a_string_with_settings(query):
    (rule,) = Request(recipe="uniform-kl", settings={"bins": 5, "budget": "10%"}).rules(query)
    assert (rule.name, rule.budget, rule.steps[0].bins) == ("uniform-kl", Amount(0.1), 5)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"by": "x"}, "`by` can only be used with `top`, `bottom`, `sample` or `balance`"),
        ({"top": 5}, "`top` can only be used with `by`"),
        ({"by": "x", "top": 5, "bins": 100}, "`bins` can only be used with `uniform`"),
        ({"by": "x", "bottom": 5, "uniform": True}, "`uniform` can only be used with `top`"),
        ({"cap": 3}, "`cap` can only be used with `balance`"),
        ({"balance": "x"}, "`balance` can only be used with `cap`"),
        ({"by": "x", "top": 5, "sample": 5}, "`top` cannot be used with `sample`"),
        ({"by": "x", "top": 5, "budget": "10%"}, "`budget` can only be used with `recipe`"),
        ({"settings": {"widen": 2}}, "`settings` can only be used with `recipe`"),
        ({"recipe": ["dc"], "by": "x"}, "`by` cannot be used with `recipe`"),
        ({"recipe": "dc", "top": 5}, "`top` cannot be used with `recipe`"),
        ({"recipe": "dc", "bottom": 5}, "`bottom` cannot be used with `recipe`"),
        ({"recipe": "dc", "sample": 0.5}, "`sample` cannot be used with `recipe`"),
        ({"recipe": "dc", "uniform": True}, "`uniform` cannot be used with `recipe`"),
        ({"recipe": "dc", "bins": 5}, "`bins` cannot be used with `recipe`"),
        ({"recipe": "dc", "balance": "x"}, "`balance` cannot be used with `recipe`"),
        ({"recipe": "dc", "cap": 5}, "`cap` cannot be used with `recipe`"),
    ],
)
def test_refuses_options_that_would_not_be_used(options, problem):
    with pytest.raises(UsageError) as caught:
        Request(**options)
    assert caught.value.problem.startswith(problem)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"by": "x", "top": "130%"}, "`top` 130% is above 100%"),
        ({"by": "x", "top": "1.8 * budget"}, "`top` '1.8 * budget' is not a number"),
        ({"recipe": "kl", "budget": "2 * budget"}, "`budget` '2 * budget' is not a number"),
        ({"sample": 0}, "`sample` 0 keeps nothing"),
        ({"balance": "x", "cap": 0}, "`cap` is 0"),
        ({"recipe": "kl-txt"}, "clipdre has no recipe 'kl-txt'"),
    ],
)
def test_refuses_values_that_make_no_sense(query, options, problem):
    request = Request(**options)
    with pytest.raises(SelectionError) as caught:
        request.rules(query)
    assert caught.value.problem == problem
