import pytest
import typer

from clipdre.cli.usage import ParserError, help_text, parser_message


def test_paragraphs_of_help_are_one_line_each():
    def command() -> None:
        """Do one thing.

        It takes
        two lines.

        Prints nothing.
        """

    assert help_text(command) == "Do one thing.\n\nIt takes two lines.\n\nPrints nothing."
    assert help_text(object()) == help_text(object)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", ""),
        ("Missing option '--output' / '-o'.", "missing option --output"),
        ("Missing argument 'SCORES'.", "missing argument SCORES"),
        ("No such option: --x", "no such option --x"),
        ("No such option: --x (Possible options: --a, --b)", "no such option --x: use --a, --b"),
        ("No such command 'x'. Did you mean 'y'?", "no such command 'x': did you mean 'y'?"),
        ("Got unexpected extra argument (x)", "unexpected argument x"),
        ("Got unexpected extra arguments (x y)", "unexpected argument x y"),
        ("Got unexpected extra argument(s) (x y)", "unexpected argument x y"),
        ("Invalid value for '--size': '-1' is wrong", "invalid value for --size: '-1' is wrong"),
        ("Value error, 'x' is\n not one of", "'x' is not one of"),
    ],
)
def test_wording(given, message):
    error = ParserError(given)
    assert parser_message(error) == message


def test_an_error_that_names_no_cure_refers_to_the_help():
    context = typer.main.get_command(typer.Typer(callback=print)).make_context("tool", ["x"])
    assert parser_message(ParserError("Wrong.", context)) == "wrong: see 'tool --help'"
    assert parser_message(ParserError("Wrong: mend it.", context)) == "wrong: mend it"
