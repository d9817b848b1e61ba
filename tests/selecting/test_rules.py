import pytest

from clipdre.errors import SelectionError, UsageError
from clipdre.selecting.rules import Amount, Rule, Step, parse_amount


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        ("25%", Amount(0.25)),
        ("0.25", Amount(0.25)),
        (" 25 ", Amount(25)),
        ("1", Amount(1)),
        ("1.0", Amount(1.0)),
        ("100%", Amount(1.0)),
        ("1e-3", Amount(1e-3)),
        ("10k", Amount(10_000)),
        ("1.5M", Amount(1_500_000)),
        ("2_000", Amount(2000)),
        (25, Amount(25)),
        (1, Amount(1)),
        (1.0, Amount(1.0)),
        (0.25, Amount(0.25)),
        (1e-9, Amount(1e-9)),
    ],
)
def test_parses_counts_and_shares(value, amount):
    parsed = parse_amount(value, "top")
    assert parsed == amount
    assert type(parsed.value) is type(amount.value)


@pytest.mark.parametrize(
    ("text", "factor"), [("budget", 1.0), ("1.8 * budget", 1.8), ("2budget", 2.0)]
)
def test_parses_multiples_of_the_budget_where_allowed(text, factor):
    assert parse_amount(text, "top", of_budget=True) == Amount(factor, of_budget=True)
    with pytest.raises(SelectionError, match="is not a number"):
        parse_amount(text, "top")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("0", "`top` 0 keeps nothing"),
        ("-3", "`top` -3 keeps nothing"),
        ("0k", "`top` 0k keeps nothing"),
        ("1.0001k", "`top` '1.0001k' is not a number"),
        ("10 kilo", "`top` '10 kilo' is not a number"),
        ("0%", "`top` 0% keeps nothing"),
        ("0.0", "`top` 0.0 keeps nothing"),
        ("0 * budget", "`top` 0 * budget keeps nothing"),
        ("130%", "`top` 130% is above 100%"),
        ("1.5", "`top` 1.5 is above 100%"),
        (2.0, "`top` 2.0 is above 100%"),
        ("1e999", "`top` 1e999 is above 100%"),
        ("many", "`top` 'many' is not a number"),
        ("%", "`top` '%' is not a number"),
        ("nan", "`top` 'nan' is not a number"),
        (float("nan"), "`top` 'nan' is not a number"),
        (True, "`top` 'True' is not a number"),
        ("budgets", "`top` 'budgets' is not a number"),
        ("1.2.3 * budget", "`top` '1.2.3 * budget' is not a number"),
    ],
)
def test_refuses_amounts_that_make_no_sense(value, problem):
    with pytest.raises(SelectionError) as caught:
        parse_amount(value, "top", of_budget=True)
    assert caught.value.problem == problem
    assert caught.value.cure == "use a count such as 1000 or 10k, or a share such as 25% or 0.25"


@pytest.mark.parametrize(
    ("amount", "rows", "count"),
    [(0.25, 10, 3), (0.25, 9, 2), (1.0, 7, 7), (5, 3, 5), (0.001, 10, 0)],
)
def test_rounds_shares_half_up(amount, rows, count):
    assert Amount(amount).of(rows) == count


TEN = Amount(10)


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ({"by": "x"}, "`by` can only be used with `top`, `bottom`, `sample` or `balance`"),
        ({"top": TEN}, "`top` can only be used with `by`, the score to rank by"),
        ({"bottom": TEN}, "`bottom` can only be used with `by`, the score to rank by"),
        ({"by": "x", "top": TEN, "bottom": TEN}, "`top` cannot be used with `bottom`"),
        ({"by": "x", "top": TEN, "sample": TEN}, "`top` cannot be used with `sample`"),
        ({"by": "x", "bottom": TEN, "sample": TEN}, "`bottom` cannot be used with `sample`"),
        ({"balance": "c"}, "`balance` can only be used with `cap`"),
        ({"cap": 3}, "`cap` can only be used with `balance`"),
        ({"uniform": True}, "`uniform` can only be used with `top`"),
        ({"by": "x", "bottom": TEN, "uniform": True}, "`uniform` can only be used with `top`"),
        ({"by": "x", "top": TEN, "bins": 5}, "`bins` can only be used with `uniform`"),
    ],
)
def test_refuses_steps_whose_parts_do_not_go_together(step, problem):
    with pytest.raises(UsageError) as caught:
        Step(**step)
    assert caught.value.problem.startswith(problem)


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ({"balance": "c", "cap": 0}, "`cap` is 0"),
        ({"by": "x", "top": TEN, "uniform": True, "bins": -1}, "`bins` is -1"),
    ],
)
def test_refuses_counts_below_one(step, problem):
    with pytest.raises(SelectionError) as caught:
        Step(**step)
    assert caught.value.problem == problem


def test_multiples_of_the_budget_need_a_budget():
    step = Step(by="x", top=Amount(1.8, of_budget=True))
    with pytest.raises(SelectionError, match="which is not set: set `budget`"):
        Rule((step,))
    with pytest.raises(SelectionError, match="`budget` cannot be a multiple of itself"):
        Rule((step,), budget=Amount(1.0, of_budget=True))
    assert Rule((step,), budget=TEN).steps == (step,)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (
            Step(where="width > 9", balance="c", cap=2, by="x", top=TEN),
            "where width > 9, at most 2 per c, top by x",
        ),
        (Step(by="x", bottom=TEN), "bottom by x"),
        (Step(by="x", top=TEN, uniform=True), "uniform over x"),
        (Step(sample=TEN), "sample by chance"),
        (Step(), "all"),
    ],
)
def test_describes_a_step_in_words(step, words):
    assert str(step) == words
