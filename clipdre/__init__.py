"""clipdre: which image-text pairs are worth keeping, told by the model's own density ratios.

The names of `clipdre.api` are here as well; they load torch and the like when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = [
    "Scores",
    "density_ratio",
    "effective_sample_size",
    "emit",
    "importance_weights",
    "kl_divergence",
    "open_scores",
    "reference_report",
    "reverse_kl_divergence",
    "score",
    "score_embeddings",
    "select",
    "weigh",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("clipdre.api"), name)
    raise AttributeError(f"module 'clipdre' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
