"""What can be wrong with a model and its weights before they are loaded."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import open_clip
import torch
from safetensors import safe_open

from clipdre.errors import ModelError

QUICK = "quick_gelu"
SUFFIX = "-quickgelu"
# Entries of the state dicts of OpenAI's TorchScript archives, beside the weights.
OPENAI_KEYS = {"input_resolution", "context_length", "vocab_size"}
# Words in the names of files whose weights were trained with QuickGELU.
QUICK_WORDS = ("openai", "metaclip", "dfn", "quickgelu", "quick_gelu")


def needs_quick_gelu(name: str, pretrained: str | None) -> bool:
    """Return whether a tag's weights were trained with QuickGELU, but the model is defined without.

    Checkpoint files do not record their activation: `check_checkpoint` looks for signs of it.
    """
    if pretrained is None or _is_quick(name):
        return False
    return bool((open_clip.get_pretrained_cfg(name.replace("/", "-"), pretrained) or {}).get(QUICK))


def _is_quick(name: str) -> bool:
    return bool((open_clip.get_model_config(name.replace("/", "-")) or {}).get(QUICK))


def check_checkpoint(name: str, path: Path) -> None:
    """Refuse OpenAI's own files, and warn if a file's name suggests another activation.

    Raises
    ------
    ModelError
        If the file is a TorchScript archive or its state dict, which open_clip cannot load.
    """
    quick = name if _is_quick(name) else f"{name}{SUFFIX}"
    if _is_torchscript(path) or _keys(path) >= OPENAI_KEYS:
        raise ModelError(
            f"checkpoint {path} is a TorchScript archive or its state dict, as OpenAI published "
            "its models, which cannot be loaded without running code from the file",
            f"use `model` {quick} with `pretrained` openai, which are the same weights",
        )
    place = f"{path.parent.name}/{path.name}".lower()
    if any(word in place for word in QUICK_WORDS) and _quick_variant(name):
        warnings.warn(
            f"the name of checkpoint {path} suggests weights trained with QuickGELU, but {name} "
            f"computes GELU, which would make the scores wrong; use `model` {quick} if so",
            stacklevel=2,
        )


def _quick_variant(name: str) -> bool:
    """Return whether a model has a variant with QuickGELU and is not it."""
    return not _is_quick(name) and f"{name.replace('/', '-')}{SUFFIX}" in open_clip.list_models()


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(Path(member).name == "constants.pkl" for member in archive.namelist())


def _keys(path: Path) -> set[str]:
    """Return the names of a checkpoint's entries; none if it cannot be read, as loading reports."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return set(file.keys())
        loaded = torch.load(path, map_location="meta", weights_only=True)
        return set(loaded.get("state_dict", loaded))
    except Exception:  # torch and safetensors have no common base class
        return set()
