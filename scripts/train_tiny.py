"""Train the embedded model `clipdre-tiny` on the truth world with the plain CLIP loss.

The model never sees the truths: like any CLIP, it learns the density ratio by distinguishing
matched from unmatched pairs. Takes under 20 minutes on two CPU cores, less on a GPU.

    python scripts/train_tiny.py        # rewrites clipdre/tiny/open_clip_model.safetensors
    python scripts/train_tiny.py -o /tmp/model --steps 300
    python scripts/train_tiny.py -o /tmp/points --steps 300 --head point-set

With `--head point-set`, the same features are read as weighted points (`clipdre.core.point_set`)
instead of one direction, so both heads have the same parameters. `clipdre score --model
local-dir:/tmp/points` scores with it.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import open_clip
import torch
import typer
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from clipdre.core.density_ratio import unit
from clipdre.core.point_set import point_sets, similarity
from clipdre.models.point_set import FILE, PointSetHead
from clipdre.truth.render import render_scene
from clipdre.truth.world import Pairs, sample_pairs

CONFIG = Path(__file__).parents[1] / "clipdre" / "tiny"
CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
MAX_LOGIT_SCALE = 100.0
POINTS = 8

# From the features of n images and of n captions to similarities, shape (n, n).
Similarity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Head(StrEnum):
    """How features are read: as one direction, or as weighted points."""

    PLAIN = "plain"
    POINT_SET = "point-set"


def cosines(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Compute the plain head's similarities."""
    return unit(images) @ unit(texts).T


def of_sets(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Compute the point-set head's similarities, by the exact kernel."""
    return similarity(point_sets(images, POINTS), point_sets(texts, POINTS))


def similarities_of(head: Head) -> Similarity:
    """Return what a head computes."""
    return of_sets if head is Head.POINT_SET else cosines


def training_pool(
    n: int, preprocess: object, tokenizer: object, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw images, uint8 of shape (n, 3, size, size), and tokens of shape (n, context)."""
    pairs: Pairs = sample_pairs(n, rng)
    size = preprocess.transforms[0].size  # type: ignore[attr-defined]
    images = torch.empty(n, 3, size, size, dtype=torch.uint8)
    for row, values in enumerate(tqdm(pairs.values, desc="draw", unit="image")):
        small = render_scene(values, rng).resize((size, size), Image.Resampling.BICUBIC)
        images[row] = torch.from_numpy(np.array(small)).permute(2, 0, 1)
    return images, tokenizer(pairs.captions)  # type: ignore[operator]


def train(
    model: torch.nn.Module,
    images: torch.Tensor,
    tokens: torch.Tensor,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    device: str,
    seed: int,
    similarities: Similarity = cosines,
) -> None:
    """Minimize the symmetric InfoNCE loss over random batches."""
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in ([0.5] * 3, [0.25] * 3))
    decay = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.1
    )
    matching = torch.arange(batch_size, device=device)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    progress = tqdm(range(steps), desc="train", unit="step")
    for step in progress:
        rows = torch.randint(len(images), (batch_size,), generator=generator)
        pixels = (images[rows].to(device).float() / 255 - mean) / std
        image_features = model.encode_image(pixels)  # type: ignore[operator]
        text_features = model.encode_text(tokens[rows].to(device))  # type: ignore[operator]
        logits = model.logit_scale.exp() * similarities(image_features, text_features)
        loss = (cross_entropy(logits, matching) + cross_entropy(logits.T, matching)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))  # type: ignore[operator]
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss.item():.4f}")


def save(model: torch.nn.Module, tokens: torch.Tensor, folder: Path, head: Head) -> None:
    """Write a folder that open_clip and clipdre load, with fp16 weights.

    Words that the world never uses and training never saw are zeros.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().half() for name, value in model.state_dict().items()}
    unseen = torch.ones(len(state["token_embedding.weight"]), dtype=torch.bool)
    unseen[tokens.unique()] = False
    state["token_embedding.weight"][unseen] = 0
    weights = {name: value.contiguous() for name, value in state.items()}
    save_file(weights, folder / WEIGHTS_FILE)
    if folder != CONFIG:
        shutil.copy(CONFIG / CONFIG_FILE, folder / CONFIG_FILE)
    if head is Head.POINT_SET:
        (folder / FILE).write_bytes(PointSetHead(points=POINTS).encoded())


def new_model(seed: int, device: str = "cpu") -> tuple[torch.nn.Module, object, object]:
    """Return an untrained model, its preprocessing and its tokenizer."""
    torch.manual_seed(seed)
    name = f"local-dir:{CONFIG}"
    model, _, preprocess = open_clip.create_model_and_transforms(
        name, load_weights=False, device=device
    )
    return model, preprocess, open_clip.get_tokenizer(name)


def parameters(model: torch.nn.Module) -> int:
    """Count the trained numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def main(
    output: Annotated[Path, typer.Option("--output", "-o")] = CONFIG,
    head: Head = Head.PLAIN,
    pairs: int = 100_000,
    steps: int = 1800,
    batch_size: int = 512,
    learning_rate: float = 2e-3,
    seed: int = 0,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Train a model and save its folder."""
    if head is Head.POINT_SET and output == CONFIG:
        raise typer.BadParameter("name a folder with --output: the embedded model has a plain head")
    started = time.monotonic()
    model, preprocess, tokenizer = new_model(seed, device)
    images, tokens = training_pool(pairs, preprocess, tokenizer, np.random.default_rng(seed))
    train(
        model,
        images,
        tokens,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        device=device,
        seed=seed,
        similarities=similarities_of(head),
    )
    save(model, tokens, output, head)
    size = (output / WEIGHTS_FILE).stat().st_size / 1e6
    seconds = time.monotonic() - started
    typer.echo(f"{output}: {parameters(model):,} parameters, {size:.1f} MB after {seconds:.0f} s")


if __name__ == "__main__":
    typer.run(main)
