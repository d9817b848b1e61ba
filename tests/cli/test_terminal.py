import io
import sys

import pytest
import typer
from typer.testing import CliRunner

from clipdre.cli import terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode 犬", "plain, ünïcode 犬"),
        ("two\nlines", "two\nlines"),
        ("\x1b[31mred\x07", "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}"),
        ("a\tb\r", "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"),
        ("right-to-left \u202e", "right-to-left \N{REPLACEMENT CHARACTER}"),
        ("C1 \x9b", "C1 \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_control_characters_are_replaced(text, shown):
    assert terminal.strip_controls(text) == shown


def test_notes_go_to_stderr_unless_they_are_the_result(capsys):
    terminal.note("a [bold]story[/bold]")
    terminal.note("a result", stdout=True)
    out, err = capsys.readouterr()
    assert (out, err) == ("a result\n", "a [bold]story[/bold]\n")


def test_a_note_is_never_wrapped(capsys):
    terminal.note(300 * "x ")
    assert capsys.readouterr().err == 300 * "x " + "\n"


def test_tables_align_words_left_and_numbers_right(capsys):
    terminal.table("Title", ("name", "n"), [("a", "1"), ("longer", "1,000")])
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line.rstrip() for line in err.splitlines() if line.strip()]
    assert lines == [
        "Title",
        " name         n",
        " ──────────────",
        " a            1",
        " longer   1,000",
    ]


def test_tables_keep_markup_and_drop_controls(capsys):
    terminal.table("T", ("name",), [("[red]\x1b",)], stdout=True)
    assert "[red]\N{REPLACEMENT CHARACTER}" in capsys.readouterr().out


@pytest.mark.parametrize(("stream", "width"), [(Terminal, 60), (io.StringIO, 100)])
def test_tables_fill_a_terminal_and_100_columns_elsewhere(monkeypatch, stream, width):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", stream())
    terminal.table("T", ("words",), [(100 * "word ",)], stdout=True)
    lines = sys.stdout.getvalue().splitlines()[1:]  # the title is never wrapped
    assert width - 6 <= max(map(len, lines)) <= width


def command_with(function):
    app = typer.Typer()
    app.command()(function)
    return app


def test_parameters_become_options():
    def function(
        scores: str,
        joined: str = typer.Option("", "--with"),
        output: str = typer.Option("", "--output", "-o"),
        max_bytes: int = 3,
    ) -> None: ...

    command = typer.main.get_command(command_with(function))
    message = "`joined` `output` `scores` `max_bytes` `text_key` `shuffle_seed` `Not One` it's"
    assert terminal.as_options(message, command) == (
        "--with --output SCORES --max-bytes --text-key --shuffle `Not One` it's"
    )
    assert terminal.as_options("`joined` `text_key` `shuffle_seed`", None) == (
        "--joined --text-key --shuffle"
    )


def test_only_options_that_were_given_are_returned():
    seen = {}

    def function(
        context: typer.Context, a: int = 1, b: int = 2, c: bool = typer.Option(False, "--c")
    ) -> None:
        seen.update(terminal.given_options(context))

    CliRunner().invoke(command_with(function), ["--a", "1"], catch_exceptions=False)
    assert seen == {"a": 1}
    CliRunner().invoke(command_with(function), ["--b", "5", "--c"], catch_exceptions=False)
    assert seen == {"a": 1, "b": 5, "c": True}
