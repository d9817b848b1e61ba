"""Counts and sizes on the command line."""

import pytest
import typer

from clipdre.cli.numbers import Count
from tests.cli.running import error_of, printed
from tests.sql.made_up import random_hashes, write_pool


def test_a_count_has_a_least_value():
    assert Count(2)("2") == Count()(2) == 2
    with pytest.raises(typer.BadParameter, match="greater than or equal to 3"):
        Count(3)("2")
    with pytest.raises(typer.BadParameter, match="'2k3' is not a count: use a number such as 2000"):
        Count()("2k3")


@pytest.fixture
def large(tmp_path):
    """Scores of 10,000 pairs."""
    columns = {
        "key": [str(n) for n in range(10_000)],
        "shard": ["00000"] * 10_000,
        "key_hash": random_hashes(10_000),
        "x": list(range(10_000)),
    }
    write_pool(tmp_path / "large", [10_000], columns)
    return tmp_path / "large"


def kept(found):
    return len(printed(found).splitlines())


def test_counts_may_be_in_thousands(run, large):
    assert kept(run(f"filter {large} --by x --top 2.5k --format keys -o -")) == 2500
    assert kept(run(f"filter {large} --balance 'x % 2' --cap 1k --format keys -o -")) == 2000


@pytest.mark.parametrize("amount", ["--by x --top 30", "--by x --bottom 100", "--sample 1"])
def test_a_count_that_may_be_meant_as_a_share_is_asked_about(run, large, scored, amount):
    option = amount.replace("--by x ", "")
    asked = f"{option} is a count, of 10,000 pairs: did you mean {option}%?"
    found = run(f"filter {large} {amount} --format keys -o -")
    assert kept(found) == int(amount.split()[-1])
    assert asked in found.stderr.splitlines()
    for other in (f"{large} {amount}%", f"{large} {option.split()[0]} 101 --by x"):
        assert "did you mean" not in run(f"filter {other} --format keys -o -").stderr
    small = run(f"filter {scored[0]} {amount.replace('by x', 'by kl_text')} --format keys -o -")
    assert "did you mean" not in small.stderr


def test_bytes_may_have_a_suffix(run, tmp_path):
    error = error_of(run("score a.tar -o s --max-member-bytes many"), 2)
    assert error == (
        "invalid value for --max-member-bytes: invalid size 'many': use bytes or a suffix, e.g. "
        "500MB"
    )
