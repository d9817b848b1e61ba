"""`clipdre weigh`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example:  clipdre weigh scores --prompt 'a photo of food' -o weights.parquet"
SHOWN_CAPTION = 60


def weigh(
    scores: Annotated[Path, typer.Argument(help="Score folder, as 'clipdre score' printed it.")],
    prompt: Annotated[list[str], typer.Option(help="What to weigh for; several are a mixture.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Parquet file to write.")],
    negative_prompt: Annotated[
        list[str] | None, typer.Option(help="What to weigh against.", show_default=False)
    ] = None,
    logit_scale: Annotated[
        float, typer.Option(min=0, help="The larger, the sharper the weights.")
    ] = 10.0,
    device: Annotated[str, typer.Option(help="auto (cuda, then cpu), cpu, cuda, ...")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Weigh pairs for a target that prompts describe, from the stored embeddings.

    The weight of a pair is proportional to exp(logit scale * cosine of image and prompt), with mean
    1 over the pool. The file joins to the scores by shard and key.
    """
    from clipdre.cli.terminal import note, table
    from clipdre.errors import OutputError
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.formats.folders.manifest import read_complete_manifest
    from clipdre.pipelines.weigh import weigh as run

    if output.is_dir() or (output.exists() and not overwrite):
        raise OutputError(f"{output} exists: choose another --output, or give --overwrite")
    manifest = read_complete_manifest(scores)
    found = run(
        ScoreFolder(scores),
        manifest,
        output,
        prompt,
        negative_prompt or (),
        logit_scale=logit_scale,
        device=device,
    )
    table(
        f"{found.rows:,} weights, as good as {found.sample_size:,.0f} pairs of equal weight",
        ("key", "weight", "caption"),
        [(key, f"{weight:.2f}", caption[:SHOWN_CAPTION]) for weight, key, caption in found.top],
    )
    if found.sample_size < 0.01 * found.rows:
        note("few pairs carry nearly all weight: a smaller --logit-scale spreads it")
    typer.echo(str(output))
