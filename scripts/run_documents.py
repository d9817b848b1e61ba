"""Run the console blocks of documents, and compare what they print with what is printed there.

python scripts/run_documents.py docs/tutorial.md            # exit 1 at the first difference
python scripts/run_documents.py docs/tutorial.md --write    # print what the commands print now

A line that begins with `$` in a ``console`` block is a command, the lines below it are its output.
The blocks of a document run in order, in a folder of their own. Seconds, rates, sizes and the last
digits may differ.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

BLOCK = re.compile(r"(?<=```console\n).*?(?=```)", re.DOTALL)
# A command, which may go on after a backslash, and its output.
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
MEASURED = re.compile(r"\b\d[\d,.]*(?= ?(?:s|min|h|[kMG]?B|\w+/s)\b)")
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w.]\d)")
# Machines round otherwise.
ROUNDING = 0.005
WIDTH = "96"


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a block, each with the output that is printed below it."""
    yield from COMMAND.findall(block)


def output_of(command: str, folder: Path) -> str:
    """Run a command in a folder as a shell would; return what a terminal shows, line by line."""
    here = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": WIDTH,
        "NO_COLOR": "1",
    }
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = [line.rstrip() for line in ended.stdout.splitlines()]
    text = "\n".join(lines).strip("\n")
    if ended.returncode not in (0, 1, 141):  # 1 may be shown on purpose
        raise SystemExit(f"$ {command}\n{text}\nended with {ended.returncode}")
    return f"{text}\n" if text else ""


def same(before: str, now: str) -> bool:
    """Return whether two outputs differ by seconds, rates, sizes and rounding alone."""
    texts = [MEASURED.sub("", text) for text in (before, now)]
    words = [NUMBER.sub("N", text).split() for text in texts]
    numbers = [[float(n.replace(",", "")) for n in NUMBER.findall(text)] for text in texts]
    return words[0] == words[1] and all(
        math.isclose(a, b, rel_tol=ROUNDING, abs_tol=ROUNDING)
        for a, b in zip(*numbers, strict=True)
    )


def ran(document: str, folder: Path) -> str:
    """Run the blocks of a document in a folder; return it with the outputs of now.

    An output that differs by seconds, rates, sizes and rounding alone stays as it is.
    """

    def block(found: re.Match[str]) -> str:
        pieces = []
        for command, before in commands(found[0]):
            now = output_of(command, folder)
            pieces.append(f"$ {command}\n{before if same(before, now) else now}")
        return "".join(pieces)

    return BLOCK.sub(block, document)


def main(
    documents: list[Path],
    write: Annotated[bool, typer.Option(help="Write what the commands print now.")] = False,
) -> None:
    """Compare the outputs in documents with those of now, or write these."""
    for path in documents:
        before = path.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder:
            now = ran(before, Path(folder))
        if write:
            path.write_text(now, encoding="utf-8")
        elif now != before:
            raise SystemExit(f"{path} does not show what its commands print: pass --write")


if __name__ == "__main__":
    typer.run(main)
