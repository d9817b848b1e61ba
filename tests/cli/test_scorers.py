from clipdre.scorers.registry import scorers
from tests.cli.running import error_of, printed


def test_lists_every_scorer_with_its_columns_on_stdout(run):
    found = run("scorers")
    text = printed(found)
    assert found.stderr == ""
    assert {"normsim", "prompt-weight"} <= set(scorers())
    for name, scorer in scorers().items():
        (line,) = [line for line in text.splitlines() if line.startswith(f" {name} ")]
        columns = [column.name for column in scorer(**scorer.example).columns()]
        assert columns[0] in line
        assert set(columns) <= set(text.split())


def test_wrong_usage(run):
    assert error_of(run("scorers x"), 2) == "unexpected argument x: see 'clipdre scorers --help'"
