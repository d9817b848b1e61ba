import pytest

from clipdre.looking.files import MARK
from tests.cli.running import error_of, printed


def test_writes_a_page_and_prints_its_path(run, scored, tmp_path):
    done = run(f"look {scored[0]} --by log_ratio --top 10% -o page.html")
    assert printed(done) == "page.html\n"
    assert "wrote 1." in done.stderr
    assert "open it in a browser" in done.stderr
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.startswith(MARK)
    assert "log_ratio &gt;= " in html
    again = run(f"look {scored[0]} --recipe log-ratio --recipe kl --budget 10% -o page.html")
    assert printed(again) == "page.html\n"
    assert "How much the rules agree" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_shows_what_a_list_keeps_on_stdout(run, scored, tmp_path):
    (tmp_path / "keys.txt").write_text("00000/000000000\nabsent/absent\n")
    keys = run(f"filter {scored[0]} --sample 3 --format keys -o keys.txt --overwrite")
    assert keys.exit_code == 0
    with (tmp_path / "keys.txt").open("a") as file:
        file.write("absent/absent\n")
    done = run(f"look {scored[0]} keys.txt --thumbnails 0 -o -")
    assert printed(done).startswith(MARK)
    assert "3 pairs, 1.0%" in done.stdout
    assert "not in these scores: 1 of 4 names" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("", 2, "no --output: name a file, such as page.html, or - for stdout"),
        ("keys.txt --by log_ratio --top 3 -o p.html", 2, "KEPT cannot be used with --by"),
        ("--seed 3 -o p.html", 2, "--seed can only be used with"),
        ("-o mine.html", 1, "mine.html exists and is not a page of 'clipdre look'"),
        ("--column nope -o p.html", 1, "there is no column nope"),
        (
            "--blur-by 'nope > 1' -o p.html",
            1,
            "cannot use --blur-by 'nope > 1': there is no column",
        ),
        ("absent -o p.html", 1, "cannot read KEPT absent"),
    ],
)
def test_mistakes_are_named(run, scored, tmp_path, options, code, message):
    (tmp_path / "mine.html").write_text("mine")
    assert message in error_of(run(f"look {scored[0]} {options}"), code)
    assert (tmp_path / "mine.html").read_text() == "mine"
