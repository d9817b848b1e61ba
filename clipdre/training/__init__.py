"""Train on a subset where it lies: its samples from the scored tars, and a loss that weighs them.

Names load when they are first used: workers of a loader need neither DuckDB nor open_clip.
"""

from __future__ import annotations

import importlib
from typing import Any

# Public names, and the modules that define them.
_EXPORTS = {
    "ClipLoss": "clipdre.training.loss",
    "SubsetDataset": "clipdre.training.pipeline",
    "dataset": "clipdre.training.opened",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'clipdre.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
