"""Help, version, errors, exit codes and pipes: the rules that all commands share."""

import os
import re
import subprocess
import sys
import tarfile

import pytest
import typer

import clipdre
from clipdre.cli.main import ORDER, app
from clipdre.cli.usage import ParserError
from clipdre.scorers.registry import scorers
from tests.cli.running import CLIPDRE, TINY, error_of, printed, shell, succeeded

GROUP = typer.main.get_command(app)
COMMANDS = [
    "",
    *ORDER,
    *(f"measure SCORES {name}" for name in scorers()),
]


def command_of(line):
    """The command of a command line."""
    command = GROUP
    for word in line.replace(" SCORES", "").split():
        command = command.get_command(None, word)
    return command


def test_commands_come_in_the_order_of_use():
    assert ORDER == [
        "score",
        "info",
        "look",
        "compare",
        "filter",
        "recipes",
        "emit",
        "export",
        "measure",
        "scorers",
        "doctor",
        "reference",
        "demo",
    ]
    assert set(GROUP.commands) == set(ORDER)


@pytest.mark.parametrize("command", COMMANDS)
class TestHelp:
    def test_fits_80_columns_and_lists_every_option(self, run, command):
        for flag in ("--help", "-h"):
            text = printed(run(f"{command} {flag}"))
            assert max(map(len, text.splitlines())) <= 80
            assert "…" not in text  # nothing is cut off
            listed = set(re.findall(r"^│ [* ]{0,5}(--[\w-]+|[A-Z]+)\b", text, re.MULTILINE))
            expected = {"--help"}
            for parameter in command_of(command).params:
                names = [max(parameter.opts, key=len)]
                if parameter.param_type_name == "argument":
                    names = [parameter.metavar]
                expected |= set(names)
            assert listed == expected

    def test_explains_every_option(self, command):
        for parameter in command_of(command).params:
            assert parameter.help, parameter.name

    def test_ends_with_an_example_whose_options_exist(self, run, command):
        text = printed(run(f"{command} --help"))
        example = " ".join(text[text.index("Example:") :].split())
        assert f"clipdre {command.split()[0] if command else 'filter'}" in example
        known = {
            option
            for line in COMMANDS
            for parameter in command_of(line).params
            for option in parameter.opts
        }
        assert set(re.findall(r"\s(--?[a-z][\w-]*)", example)) <= known | {"-name", "-v"}


def test_no_arguments_show_help(run):
    found = run("")
    assert found.exit_code == 2
    assert "Usage: clipdre [OPTIONS] COMMAND" in found.stdout
    assert found.stderr == ""


def test_version(run):
    assert printed(run("--version")) == printed(run("-V")) == f"clipdre {clipdre.__version__}\n"
    assert succeeded(f"{CLIPDRE} --version") == f"clipdre {clipdre.__version__}\n"
    module = [sys.executable, "-m", "clipdre", "--version"]
    assert subprocess.check_output(module, text=True) == f"clipdre {clipdre.__version__}\n"


@pytest.mark.parametrize(
    ("words", "completions"),
    [("clipdre rec", "recipes\n"), ("clipdre score --batch", "--batch-size\n")],
)
def test_shells_can_complete(words, completions):
    n = len(words.split()) - 1
    variables = f"COMP_WORDS='{words}' COMP_CWORD={n} _CLIPDRE_COMPLETE=complete_bash"
    assert succeeded(f"{variables} clipdre").strip() == completions.strip()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--nosuch", "no such option --nosuch: see 'clipdre --help'"),
        (
            "score --config x.toml",
            "option --config comes before the command: clipdre --config FILE COMMAND",
        ),
        ("filter s --byy 3", "no such option --byy: use --by"),
        ("score --nosuch", "no such option --nosuch: see 'clipdre score --help'"),
        (
            "measure s normsim --nosuch",
            "no such option --nosuch: see 'clipdre measure SCORES normsim --help'",
        ),
        ("nosuch", "no such command 'nosuch': see 'clipdre --help'"),
        ("filtr s", "no such command 'filtr': did you mean 'filter'?"),
        ("info", "missing argument SCORES: see 'clipdre info --help'"),
        ("score x.tar", "no --output: name a folder for the scores, or add --dry-run"),
        ("info a b", "unexpected argument b: see 'clipdre info --help'"),
        ("filter s --by", "option --by requires an argument"),
        ("score x -o y --bulk many", "invalid value for --bulk: 'many' is not a count: use a num"),
        ("score x -o y --bulk 1.5", "invalid value for --bulk: '1.5' is not a count: use a num"),
        (
            "score x -o y --bulk 1",
            "invalid value for --bulk: use a value greater than or equal to 2",
        ),
        (
            "score x -o y --decode slow",
            "invalid value for --decode: 'slow' is not one of 'exact', ",
        ),
    ],
)
def test_the_parsers_errors_are_one_line(run, command, message):
    error = error_of(run(command), 2)
    assert error.startswith(message)
    assert len(run(command).stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "name"),
    [("score pool -o -", "--output"), ("demo -", "'FOLDER'"), ("demo ./-", "'FOLDER'")],
)
def test_no_command_writes_a_folder_named_like_stdout(run, tmp_path, command, name):
    error = error_of(run(command), 2)
    reason = "this command writes a folder, not a stream: name one"
    assert error == f"invalid value for {name}: {reason}"
    assert not list(tmp_path.iterdir())


def test_a_program_that_runs_the_command_line_gets_its_outcome(run, capsys):
    assert app(["--version"], standalone_mode=False) == 0
    assert app(["info", "nowhere"], standalone_mode=False) == 1
    with pytest.raises(ParserError):
        app(["info"], standalone_mode=False)
    assert capsys.readouterr().err.count("\n") == 1  # of the second


def test_an_error_names_options_as_flags(run, scored):
    error = error_of(run(f"filter {scored[0]} --by width --top 3 --sample 3 -o x"), 2)
    assert error == "--top cannot be used with --sample: drop --top or --sample"


def test_an_error_shows_no_control_characters(run):
    error = error_of(run("score 'no\x1b\nsuch.tar' -o x"), 1)
    assert error == "no such shard or folder: no\N{REPLACEMENT CHARACTER} such.tar: check the path"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (f"info {'a' * 300}", "File name too long"),
        ("reference {scores} --plot none/a.png", "No such file or directory"),
    ],
)
def test_what_the_system_refuses_is_one_line(run, scored, command, message):
    found = run(command.format(scores=scored[0]))
    assert found.exit_code == 1
    (error,) = found.stderr.splitlines()
    assert error.startswith("clipdre: error: ")
    assert error.endswith(message) or f"({message})" in error


def test_paths_that_are_not_utf8(scored, tmp_path):
    """A file may have one; Arrow and DuckDB cannot open a folder that has."""
    command = [CLIPDRE, "filter", scored[0], "--by", "log_ratio", "--top", "3", "-o"]
    output = tmp_path / "caf\udce9"
    done = subprocess.run([*command, f"{output}.tar"], capture_output=True, check=True)
    assert done.stdout == os.fsencode(f"{output}.tar\n")
    for arguments in ([*command, output], [CLIPDRE, "info", output]):
        done = subprocess.run(arguments, capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (1, b"")
        (error,) = [line for line in done.stderr.splitlines() if b"error" in line]
        assert b" is not UTF-8: " in error


def test_a_warning_is_one_line(scored, tmp_path):
    """In a shell: pytest turns warnings into errors."""
    options = f"{TINY} --reference sample --bulk 64"
    command = f"clipdre score {scored[1].shards[0].url} -o s {options}"
    run = shell(f"{command} && clipdre filter s --by klr_text --top 3 --format keys -o -", tmp_path)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 1 + 3
    found = [line for line in run.stderr.splitlines() if line.startswith("clipdre: warning: ")]
    assert len(found) == 2  # the pool is small, and its reference is a sample
    for warning in found:
        assert warning.startswith("clipdre: warning: klr_text has a ")
        assert "`" not in warning


class TestPipes:
    def test_find_feeds_score_and_score_feeds_filter(self, pool, tmp_path):
        find = f"find {pool} -name '*.tar' | sort"
        assert succeeded(f"{find} | clipdre score - -o s {TINY}", tmp_path) == "s\n"
        score = f"clipdre score {pool} -o s {TINY}"
        command = f'clipdre filter "$({score})" --by log_ratio --top 30% -o kept'
        assert succeeded(command, tmp_path) == "kept\n"
        with tarfile.open(tmp_path / "kept" / "00000000.tar") as tar:
            assert len(tar.getmembers()) == 3 * 90

    def test_keys_to_sort_and_sed(self, scored):
        keys = f"clipdre filter {scored[0]} --where 'similarity > 0.3' --format keys -o -"
        assert succeeded(f"{keys} | sort | sed -n 1,2p").splitlines() == [
            "00000/000000000",
            "00000/000000001",
        ]

    def test_a_tar_to_tar(self, scored):
        names = succeeded(f"clipdre filter {scored[0]} --by kl_text --top 10 -o - | tar t")
        assert len(names.splitlines()) == 30

    def test_any_tool_stands_between_filter_and_emit(self, scored, tmp_path):
        keys = f"clipdre filter {scored[0]} --by kl_text --top 12 --format keys -o -"
        emit = f"clipdre emit {scored[0]} --keys - -o {tmp_path}/kept"
        command = f"{keys} | sort -r | sed -n 1,8p | {emit}"
        assert succeeded(command) == f"{tmp_path}/kept\n"
        with tarfile.open(tmp_path / "kept" / "00000000.tar") as tar:
            assert len(tar.getmembers()) == 3 * 8

    @pytest.mark.parametrize(
        "command",
        [
            "clipdre filter {scores} --all -o -",
            "clipdre filter {scores} --all --format jsonl -o -",
            "PYTHONUNBUFFERED=1 clipdre filter {scores} --all --format jsonl -o -",
            "clipdre info {scores}",
            "clipdre info {scores} 2>&1",
            "clipdre filter {scores} --by kl_text --top 10 --dry-run",
            "clipdre reference {scores}",
            "clipdre doctor {pool}",
            "clipdre recipes",
            "clipdre scorers",
        ],
    )
    def test_a_closed_pipe_ends_quietly_as_for_other_tools(self, scored, pool, command):
        command = command.format(scores=scored[0], pool=pool)
        run = shell(f"{command} | head -c 10 | wc -c")
        # What fits into the pipe's buffer is written in full, and that is a success.
        assert run.returncode in ((141,) if "-o -" in command else (0, 141)), run.stderr
        assert run.stdout.strip() == "10"
        assert "rror" not in run.stderr
        assert "Traceback" not in run.stderr
