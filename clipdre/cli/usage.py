"""Help texts, and the parser's errors as one line like all others."""

from __future__ import annotations

import inspect
import re
from typing import Any

import typer

# The parser's usage errors; Typer keeps their class in different modules, version by version.
ParserError: Any = typer.BadParameter.__base__
# The parser's wording, and ours.
REWORDED = (
    (re.compile(r"'(--?[a-z][\w-]*)'( / '--?[a-z][\w-]*')*"), r"\1"),
    (
        re.compile(r"^No such option: --config.*"),
        "option --config comes before the command: clipdre --config FILE COMMAND",
    ),
    (re.compile(r"^Got unexpected extra argument(?:s|\(s\))? \((.*)\)"), r"unexpected argument \1"),
    (re.compile(r"argument '(\w+)'"), r"argument \1"),
    (re.compile(r"\. Did you mean (.*)\?$"), r": did you mean \1?"),
    (
        re.compile(r"^No such option: (\S+) \(Possible options: (.*)\)"),
        r"No such option \1: use \2",
    ),
    (re.compile(r"^No such option: "), "No such option "),
    (re.compile(r"Value error, "), ""),
    (re.compile(r"Input should be a valid (\w+).*"), r"use a valid \1"),
    (re.compile(r"Input should be (greater|less)"), r"use a value \1"),
)
METAVAR = re.compile(r"[{}\[\]]|\.\.\.")


def help_text(command: Any) -> str:
    """Return a docstring with one line per paragraph."""
    return paragraphs(inspect.getdoc(command) or "")


def paragraphs(text: str) -> str:
    """Return a text with one line per paragraph: Rich would keep its line breaks."""
    return "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in text.split("\n\n"))


def parser_message(error: Any) -> str:
    """Return the problem and the cure of a `ParserError`; empty if help was shown instead."""
    text = " ".join(error.format_message().split()).rstrip(".")
    for pattern, replacement in REWORDED:
        text = pattern.sub(replacement, text)
    text = text[:1].lower() + text[1:]
    if not text or ": " in text or error.ctx is None:
        return text
    return f"{text}: see '{METAVAR.sub('', error.ctx.command_path)} --help'"
