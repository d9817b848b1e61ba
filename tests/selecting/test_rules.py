import pytest

from clipdre.errors import SelectionError
from clipdre.selecting.rules import Amount, Rule, Step, parse_amount


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("25%", Amount(0.25)),
        ("0.25", Amount(0.25)),
        ("25", Amount(25)),
        ("1", Amount(1)),
        ("1.0", Amount(1.0)),
        ("100%", Amount(1.0)),
        ("1e-3", Amount(1e-3)),
        ("budget", Amount(1.0, of_budget=True)),
        ("1.8 * budget", Amount(1.8, of_budget=True)),
        ("2budget", Amount(2.0, of_budget=True)),
    ],
)
def test_parse_amount(text, amount):
    parsed = parse_amount(text, "--top")
    assert parsed == amount
    assert type(parsed.value) is type(amount.value)


@pytest.mark.parametrize(
    "text",
    ["0", "-3", "0%", "101%", "1.5", "0.0", "many", "%", "nan", "1e999", "0 * budget", "budgets"],
)
def test_parse_amount_refuses_what_keeps_nothing_or_too_much(text):
    with pytest.raises(SelectionError, match=r"--top .* give a count such as 1000, or a fraction"):
        parse_amount(text, "--top")


@pytest.mark.parametrize(
    ("amount", "rows", "asked"),
    [(0.25, 10, 3), (0.25, 9, 2), (1.0, 7, 7), (5, 3, 5), (0.001, 10, 0)],
)
def test_a_share_is_rounded_half_up(amount, rows, asked):
    assert Amount(amount).of(rows) == asked


TEN = Amount(10)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"by": "x"}, "--by and --top belong together"),
        ({"top": TEN}, "--by and --top belong together"),
        ({"by": "x", "top": TEN, "bottom": TEN}, "--top and --bottom exclude each other"),
        ({"by": "x", "top": TEN, "sample": TEN}, "--top and --sample exclude each other"),
        ({"balance": "c"}, "--balance and --cap belong together"),
        ({"cap": 3}, "--balance and --cap belong together"),
        ({"uniform": True}, "--uniform spreads what --top asks for"),
        ({"by": "x", "bottom": TEN, "uniform": True}, "--uniform spreads what --top asks for"),
        ({"balance": "c", "cap": 0}, "counts of at least 1"),
        ({"by": "x", "top": TEN, "uniform": True, "bins": 0}, "counts of at least 1"),
    ],
)
def test_a_step_that_makes_no_sense_is_refused(step, said):
    with pytest.raises(SelectionError, match=said):
        Step(**step)


def test_a_budget_has_to_be_there_when_spoken_of():
    step = Step(by="x", top=Amount(1.8, of_budget=True))
    with pytest.raises(SelectionError, match="there is none: give --budget"):
        Rule((step,))
    with pytest.raises(SelectionError, match="a multiple of itself"):
        Rule((step,), budget=Amount(1.0, of_budget=True))
    assert Rule((step,), budget=TEN).steps == (step,)


def test_a_step_says_what_it_does():
    step = Step(where="width > 9", balance="c", cap=2, by="x", top=TEN)
    assert str(step) == "where width > 9, at most 2 per c, top by x"
    assert str(Step(sample=TEN)) == "sample by chance"
    assert str(Step()) == "all"
