"""`clipdre recipes`."""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLE = "Example:  clipdre recipes log-ratio-then-kl > mine.toml"


def recipes(
    name: Annotated[str | None, typer.Argument(help="Recipe to print, to copy and change.")] = None,
) -> None:
    """List the published rules that 'clipdre filter --recipe' knows, or print one."""
    from clipdre.cli.terminal import table
    from clipdre.selecting.recipes import read_recipe, recipe_names, recipe_text

    if name is not None:
        typer.echo(recipe_text(name), nl=False)
        return
    found = [read_recipe(known) for known in recipe_names()]
    for recipe in found:
        typer.echo(recipe.name)
    table(
        "recipes",
        ("name", "keeps", "options"),
        [
            (r.name, r.title, ", ".join(f"{name}={value}" for name, value in r.options.items()))
            for r in found
        ],
        words=3,
    )
