"""Write the documents that the code itself decides: docs/cli.md from the commands themselves.

python scripts/make_docs.py            # write
python scripts/make_docs.py --check    # exit 1 when what is there is out of date
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import typer

from clipdre.cli.main import app

PATH = Path(__file__).parents[1] / "docs" / "cli.md"
INTRODUCTION = """# The command line

Written by `make docs` from the commands themselves; `make lint` checks it. Results go to stdout,
everything else to stderr; `-` is stdin or stdout. Exit codes: 0 done, 1 a mistake that the message
names, 2 wrong usage, 130 interrupted.
"""


def cli_reference() -> str:
    """The whole of docs/cli.md."""
    group: Any = typer.main.get_command(app)
    return "\n".join([INTRODUCTION, *(section(c) for c in group.commands.values())])


def section(command: Any) -> str:
    """One command: what it does, an example, a table of what it takes."""
    lines = [
        f"## `clipdre {command.name}`",
        "",
        inspect.cleandoc(command.help),
        "",
        f"    {command.epilog.removeprefix('Example:').strip()}",
        "",
        "| | | default |",
        "|---|---|---|",
    ]
    lines += [parameter(p) for p in command.params if p.name != "help"]
    return "\n".join([*lines, ""])


def parameter(param: Any) -> str:
    """A table row: names, help, default."""
    if param.param_type_name == "argument":
        names = f"`{param.name.upper()}`"
    else:
        names = ", ".join(f"`{name}`" for name in sorted(param.opts, key=len, reverse=True))
    default = getattr(param.default, "value", param.default)
    shown = "" if default in (None, False) or param.required else f"`{default}`"
    shown = "required" if param.required else shown
    return f"| {names} | {(param.help or '').replace('|', chr(92) + '|')} | {shown} |"


def main() -> int:
    """Write or check; returns the exit code."""
    text = cli_reference()
    if "--check" not in sys.argv[1:]:
        PATH.parent.mkdir(exist_ok=True)
        PATH.write_text(text, encoding="utf-8")
        return 0
    if PATH.exists() and PATH.read_text(encoding="utf-8") == text:
        return 0
    print("docs/cli.md is out of date: run 'make docs'")
    return 1


if __name__ == "__main__":
    sys.exit(main())
