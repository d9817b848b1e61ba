import pytest

from tests.cli.running import error_of, printed, rows_of


def test_its_report_is_on_stdout(run, tmp_path):
    report = printed(run("demo d --pairs 500 --device cpu"))
    rows = rows_of(report)
    assert set(rows) >= {"log_ratio", "kl_text", "kl_image", "similarity", "at random"}
    estimated, true, pearson = (float(value) for value in first_row(report, "kl_text"))
    assert abs(estimated - true) < 0.5
    assert 0.5 < pearson <= 1
    assert (tmp_path / "d" / "estimated-against-true.png").read_bytes().startswith(b"\x89PNG")
    assert "The pools and scores are in d, the kept shards in d/subset." in report
    assert report.splitlines()[-1].startswith("    clipdre filter $(clipdre score ")


def first_row(text, name):
    """Cells after the first of the first row of that name."""
    return next(line.split()[1:] for line in text.splitlines() if line.startswith(f" {name} "))


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("{pool}", 1, "{pool} is not empty: choose a new folder for the demo"),
        (
            "d --pairs 3",
            2,
            "invalid value for --pairs: use a value greater than or equal to 500",
        ),
        ("d --seed x", 2, "invalid value for --seed: use a valid integer"),
        ("", 2, "missing argument FOLDER: see 'clipdre demo --help'"),
    ],
)
def test_wrong_usage(run, pool, options, code, message):
    error = error_of(run(f"demo {options.format(pool=pool)}"), code)
    assert error == message.format(pool=pool)
