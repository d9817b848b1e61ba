"""Train the embedded model `clipdre-tiny` on the truth world with the plain CLIP loss.

The model never sees the truths: like any CLIP, it learns the density ratio by distinguishing
matched from unmatched pairs. Takes under 20 minutes on two CPU cores, less on a GPU.

    python scripts/train_tiny.py        # rewrites clipdre/tiny/open_clip_model.safetensors
    python scripts/train_tiny.py -o /tmp/model.safetensors --steps 300
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import open_clip
import torch
import typer
from PIL import Image
from safetensors.torch import save_file
from tqdm import tqdm

from clipdre.truth.render import render_scene
from clipdre.truth.world import Pairs, sample_pairs

CONFIG = Path(__file__).parents[1] / "clipdre" / "tiny"
MAX_LOGIT_SCALE = 100.0


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
    loss_fn = open_clip.ClipLoss()
    generator = torch.Generator().manual_seed(seed)
    model.train()
    progress = tqdm(range(steps), desc="train", unit="step")
    for step in progress:
        rows = torch.randint(len(images), (batch_size,), generator=generator)
        pixels = (images[rows].to(device).float() / 255 - mean) / std
        image_features = model.encode_image(pixels, normalize=True)  # type: ignore[operator]
        text_features = model.encode_text(tokens[rows].to(device), normalize=True)  # type: ignore[operator]
        loss = loss_fn(image_features, text_features, model.logit_scale.exp())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))  # type: ignore[operator]
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss.item():.4f}")


def save(model: torch.nn.Module, tokens: torch.Tensor, path: Path) -> None:
    """Write fp16 weights, with zeros for words that the world never uses and training never saw."""
    state = {name: value.detach().cpu().half() for name, value in model.state_dict().items()}
    unseen = torch.ones(len(state["token_embedding.weight"]), dtype=torch.bool)
    unseen[tokens.unique()] = False
    state["token_embedding.weight"][unseen] = 0
    save_file({name: value.contiguous() for name, value in state.items()}, path)


def main(
    output: Annotated[Path, typer.Option("--output", "-o")] = CONFIG
    / "open_clip_model.safetensors",
    pairs: int = 100_000,
    steps: int = 1800,
    batch_size: int = 512,
    learning_rate: float = 2e-3,
    seed: int = 0,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Train and save the embedded model."""
    started = time.monotonic()
    torch.manual_seed(seed)
    name = f"local-dir:{CONFIG}"
    model, _, preprocess = open_clip.create_model_and_transforms(
        name, load_weights=False, device=device
    )
    tokenizer = open_clip.get_tokenizer(name)
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
    )
    save(model, tokens, output)
    size = output.stat().st_size / 1e6
    typer.echo(f"{output}: {size:.1f} MB after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    typer.run(main)
