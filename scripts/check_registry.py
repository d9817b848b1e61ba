"""Score a few pairs with every open_clip architecture whose tokenizer needs no download.

Each model is initialized at random, saved as a checkpoint, and passed to `clipdre score`.

python scripts/check_registry.py                        # all with at most 500 million parameters
python scripts/check_registry.py EVA02-B-16 convnext_tiny
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import open_clip
import torch
import typer

from clipdre.config import EncodeConfig
from clipdre.formats.tars.places import expand_shards
from clipdre.pipelines.score import ScoreConfig, score
from clipdre.truth.pool import write_pool

PAIRS = 8


def architectures() -> list[str]:
    """Return the names in open_clip's registry that load without a hub."""

    def local(config: dict[str, Any], name: str) -> bool:
        text = config["text_cfg"]
        hub = text.get("hf_tokenizer_name") or text.get("hf_model_name")
        return not hub and "siglip" not in name.lower()

    return [n for n in open_clip.list_models() if local(open_clip.get_model_config(n), n)]


def check(name: str, most: float) -> str:
    """Score with one architecture; return the outcome in a few words."""
    torch.manual_seed(0)
    model = open_clip.create_model(name, pretrained_text=False)
    parameters = sum(p.numel() for p in model.parameters())
    if parameters > most:
        return f"skipped: {parameters / 1e6:.0f} million parameters"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        torch.save(model.state_dict(), folder / "weights.pt")
        del model
        gc.collect()
        write_pool(folder / "pool", PAIRS, seed=0, noise={})
        encode = EncodeConfig(name, str(folder / "weights.pt"), "cpu", batch_size=PAIRS, workers=1)
        started = time.perf_counter()
        manifest = score(
            expand_shards([str(folder / "pool")]), folder / "s", ScoreConfig(encode=encode)
        )
    if manifest.rows != PAIRS or not np.isfinite(manifest.model.logit_scale):
        return f"FAILED: {manifest.rows} rows of {PAIRS}"
    seconds = time.perf_counter() - started
    return f"ok: {parameters / 1e6:.0f} million parameters, {seconds:.1f} s"


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help="Architectures to check; by default all.")
    ] = None,
    most: Annotated[float, typer.Option(help="Skip larger models.")] = 5e8,
) -> None:
    """Print one line per architecture; exit with 1 if one fails."""
    failed = 0
    for name in names or architectures():
        try:
            outcome = check(name, most)
        except Exception as error:  # one failure must not hide the others
            outcome = f"FAILED: {type(error).__name__}: {str(error)[:200]}"
        failed += "FAILED" in outcome
        print(f"{name:40s} {outcome}", flush=True)
    sys.exit(min(failed, 1))


if __name__ == "__main__":
    typer.run(main)
