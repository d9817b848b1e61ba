"""`clipdre recipes`."""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLE = "Example:  clipdre recipes log-ratio-then-kl > mine.toml"


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="Recipe to print, so that you can copy and change it.", metavar="NAME"),
    ] = None,
) -> None:
    """List the published rules that 'clipdre filter --recipe' knows, or print one."""
    from clipdre.cli.terminal import table
    from clipdre.selecting.recipes import read_recipe, recipe_names, recipe_text

    if name is not None:
        typer.echo(recipe_text(name), nl=False)
        return
    found = [read_recipe(known) for known in recipe_names()]
    table(
        "Recipes",
        ("name", "keeps", "options"),
        [
            (r.name, r.title, ", ".join(f"{name}={value}" for name, value in r.options.items()))
            for r in found
        ],
        words=3,
        stdout=True,
    )
