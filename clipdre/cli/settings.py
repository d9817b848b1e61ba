"""Options from a file and from the environment, as the parser's own defaults."""

from __future__ import annotations

import os
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from clipdre.slices import VARIABLE
from clipdre.words import closest, one_line, similar

PREFIX = "CLIPDRE"
# How close a variable must come to ours: one that names no command may be another tool's.
FAR, NEAR = 0.5, 0.85
# A longer file does not hold options.
MOST_CHARACTERS = 1_000_000


class PlainHelp:
    """Help without a type for flags, and without a variable per option: one rule names them all."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return all parameters, that of the help included."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            parameter.show_envvar = False
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
            # CLIPDRE_CONFIG names a file; CLIPDRE_VERSION may be anyone's.
            if parameter.is_eager or not parameter.expose_value:
                parameter.allow_from_autoenv = parameter.name in ("config", "scratch")
        return parameters


class Command(PlainHelp, TyperCommand):
    """A command whose options are set by CLIPDRE_COMMAND_OPTION too, named as on the line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options: list[Any] = self.params
        for parameter in options:
            if parameter.param_type_name == "option":
                name = _option_of(parameter).replace("-", "_")
                if name != parameter.name:
                    parameter.envvar = f"{PREFIX}_{self.name}_{name}".upper()
                    parameter.allow_from_autoenv = False


def warn_of_variables(group: Any) -> None:
    """Warn of each variable that is meant to set an option, by its name, but sets none."""
    commands = [f"{_variable(PREFIX, name)}_" for name in group.list_commands(None)]
    for name in sorted(os.environ):
        known = list(_variables(group, PREFIX, name))
        if not name.startswith(f"{PREFIX}_") or name in (f"{PREFIX}_CONFIG", VARIABLE, *known):
            continue
        start = next((c for c in commands if name.startswith(c)), f"{PREFIX}_")
        options = {k.removeprefix(start): k for k in known if k.startswith(start)}
        close = similar(name.removeprefix(start), list(options), FAR if start in commands else NEAR)
        if close or start in commands:
            names = " or ".join(options[each] for each in close)
            cure = f"did you mean {names}?" if close else "options are listed by --help"
            warnings.warn(f"{name} sets no option: {cure}", stacklevel=2)


def _variables(command: Any, prefix: str, name: str) -> Iterator[str]:
    """Yield the variables of a command's options, or of a group's if `name` may be one of them."""
    if not hasattr(command, "list_commands"):
        options = (p for p in command.params if p.param_type_name == "option")
        yield from (_variable(prefix, _option_of(option)) for option in options)
    elif name.startswith(prefix):  # scorers are loaded only if one is meant
        for child in command.list_commands(None):
            yield from _variables(command.get_command(None, child), _variable(prefix, child), name)


def _variable(*parts: str) -> str:
    return "_".join(parts).replace("-", "_").upper()


def use_file(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values in a file the defaults of all commands."""
    if path is not None:
        try:
            tables = tomllib.loads(_text_of(path))
        except (OSError, ValueError, RecursionError) as error:
            raise typer.BadParameter(f"cannot read {path} ({one_line(error)})") from None
        context.default_map = _defaults(context.command, tables, str(path))
    return path


def _text_of(path: Path) -> str:
    with open(path, encoding="utf-8") as file:
        text = file.read(MOST_CHARACTERS + 1)
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has more than {MOST_CHARACTERS:,} characters")
    return text


def _defaults(command: Any, table: Any, where: str) -> dict[str, Any]:
    """Return the values of a table by parameter: those of a group's commands, or of a command."""
    if not isinstance(table, dict):
        raise typer.BadParameter(f"{where} is not a table of options")
    if hasattr(command, "list_commands"):
        known = command.list_commands(None)
        loose = next(
            (n for n, v in table.items() if n not in known and not isinstance(v, dict)), None
        )
        if loose is not None:
            cure = f"put it below the name of one, such as [{known[0]}]"
            raise typer.BadParameter(f"{where} sets {loose!r} outside of a command: {cure}")
        return {
            name: _defaults(command.get_command(None, name), part, f"{where} [{name}]")
            for name, part in table.items()
            if _is_known(name, known, "command", where)
        }
    options = {_option_of(p): p for p in command.params if p.param_type_name == "option"}
    named = {name.replace("_", "-"): value for name, value in table.items()}
    return {
        options[name].name: _value(options[name], value, f"{where} {name}")
        for name, value in named.items()
        if _is_known(name, list(options), "option", where)
    }


def _is_known(name: str, known: list[str], what: str, where: str) -> bool:
    if name not in known:
        cure = closest(name, known) or f"use {', '.join(known)}"
        raise typer.BadParameter(f"{where} has no {what} {name!r}: {cure}")
    return True


def _value(option: Any, value: Any, where: str) -> Any:
    """Return a value of the file as the parser would find it on the command line."""
    if isinstance(value, dict) or (isinstance(value, list) and not option.multiple):
        raise typer.BadParameter(f"{where} takes one value")
    if option.is_flag:
        return value
    if option.multiple:
        return [str(each) for each in (value if isinstance(value, list) else [value])]
    return str(value)


def _option_of(parameter: Any) -> str:
    name: str = max(parameter.opts, key=len)
    return name.lstrip("-")
