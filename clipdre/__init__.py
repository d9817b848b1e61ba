"""clipdre: which image-text pairs are worth keeping, by the model's own density ratios.

All public names can be imported from here. Torch and DuckDB load only when a name is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public names, and the modules that define them.
_EXPORTS = {
    "Scores": "clipdre.api.scores",
    "check_reference": "clipdre.api.scores",
    "compare": "clipdre.looking.comparison",
    "density_ratio": "clipdre.core.exact",
    "diagnose": "clipdre.api.scoring",
    "effective_sample_size": "clipdre.core.exact",
    "emit": "clipdre.api.subsets",
    "export": "clipdre.api.subsets",
    "importance_weights": "clipdre.core.exact",
    "kl_divergence": "clipdre.core.exact",
    "look": "clipdre.api.looking",
    "measure": "clipdre.api.scoring",
    "open_scores": "clipdre.api.scores",
    "preview": "clipdre.selecting.preview",
    "reverse_kl_divergence": "clipdre.core.exact",
    "score": "clipdre.api.scoring",
    "score_embeddings": "clipdre.api.scoring",
    "select": "clipdre.api.subsets",
    "select_listed": "clipdre.api.subsets",
    "summarize": "clipdre.api.scores",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'clipdre' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
