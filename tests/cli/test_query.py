import time

import pytest

from tests.cli.running import error_of, printed, shell
from tests.helpers import write_score_folder


@pytest.mark.parametrize(
    ("column", "scorer"), [("normsim", "normsim"), ("prompt_log_weight", "prompt-weight")]
)
def test_a_column_that_can_be_measured_is_named_with_its_scorer(run, scored, column, scorer):
    error = error_of(run(f"filter {scored[0]} --by {column} --top 3 -o out"), 1)
    assert error == (
        f"cannot use --by '{column}': there is no column {column}: "
        f"add it with 'clipdre measure SCORES {scorer}'"
    )


def test_other_columns_are_named_by_their_closest_ones(run, scored):
    error = error_of(run(f"filter {scored[0]} --by logratio --top 3 -o out"), 1)
    assert "there is no column logratio: did you mean log_ratio" in error


def test_a_column_of_another_state_of_the_pool_is_measured_again(run, scores):
    printed(run("measure scores prompt-weight --prompt 'a red circle'"))
    (scores / "columns" / "prompt-weight" / "00001.parquet").unlink()
    error = error_of(run("filter scores --by prompt_weight --top 3 -o out"), 1)
    assert "column prompt_weight was measured for another state of this pool" in error
    assert error.endswith("run the same 'clipdre measure' again: prompt-weight")


def test_one_call_that_takes_forever_ends_with_the_time_limit(tmp_path):
    """DuckDB looks for an interrupt between blocks of rows only."""
    captions = ["a" * 60_000] * 2000
    columns = {"key": captions, "key_hash": range(2000), "caption": captions}
    write_score_folder(tmp_path / "s", [columns])
    where = "regexp_matches(caption, '(a?){300}a{300}b')"
    started = time.monotonic()
    options = "--format keys --time-limit 1 -o -"
    run = shell(f'clipdre filter s --where "{where}" {options}', tmp_path)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        "clipdre: error: the selection took longer than 1 s: simplify it, or raise --time-limit\n"
    )
    assert time.monotonic() - started < 60
