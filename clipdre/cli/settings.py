"""Options from a file and from the environment, as the parser's own defaults."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from clipdre.words import closest, one_line

PREFIX = "CLIPDRE"


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
                parameter.allow_from_autoenv = parameter.name == "config"
        return parameters


class Command(PlainHelp, TyperCommand):
    """A command whose options are set by CLIPDRE_COMMAND_OPTION too, named as on the line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for parameter in self.params:
            if parameter.param_type_name == "option":
                name = _option_of(parameter).replace("-", "_")
                if name != parameter.name:
                    parameter.envvar = f"{PREFIX}_{self.name}_{name}".upper()


def use_file(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values in a file the defaults of all commands."""
    if path is not None:
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise typer.BadParameter(f"cannot read {path} ({one_line(error)})") from None
        context.default_map = _defaults(context.command, tables, str(path))
    return path


def _defaults(command: Any, table: Any, where: str) -> dict[str, Any]:
    """Return the values of a table by parameter: those of a group's commands, or of a command."""
    if not isinstance(table, dict):
        raise typer.BadParameter(f"{where} is not a table of options")
    if hasattr(command, "list_commands"):
        known = command.list_commands(None)
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
