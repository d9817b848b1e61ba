"""Names of models, without importing the libraries that load them."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from clipdre.config import TINY_MODEL, EncodeConfig
from clipdre.errors import ModelError
from clipdre.words import closest

SCHEMAS = ("local-dir:", "hf-hub:")
WEIGHT_SUFFIXES = ("safetensors", "bin", "pt", "pth", "npz")


@cache
def known_models() -> tuple[str, ...]:
    """Return the names of open_clip's models, as `open_clip.list_models` does after an import."""
    spec = importlib.util.find_spec("open_clip")
    places = (spec.submodule_search_locations if spec else None) or ()
    return tuple(sorted(f.stem for p in places for f in Path(p).glob("model_configs/*.json")))


def check_name(config: EncodeConfig) -> None:
    """Refuse unknown models and missing checkpoints; tags are known to open_clip only.

    Raises
    ------
    ModelError
    """
    if config.model == TINY_MODEL:
        if config.pretrained not in (None, EncodeConfig.pretrained):
            raise ModelError(f"model {TINY_MODEL} has its own weights", "drop `pretrained`")
        return
    if config.model.startswith(SCHEMAS):
        return
    name = config.model.replace("/", "-")  # open_clip takes both spellings
    if name not in known_models():
        hint = closest(name, [TINY_MODEL, *known_models()])
        raise ModelError(
            f"unknown model {name}", hint or "use one of open_clip's, such as ViT-L-14"
        )
    weights = config.pretrained
    if weights is not None and looks_like_path(weights) and not Path(weights).is_file():
        problem = f"no checkpoint {weights} for model {name}"
        raise ModelError(problem, "name a file, or one of open_clip's tags for this model")


def looks_like_path(weights: str) -> bool:
    """Return whether weights are named by a path, not by a tag."""
    return "/" in weights or weights.rpartition(".")[2] in WEIGHT_SUFFIXES
