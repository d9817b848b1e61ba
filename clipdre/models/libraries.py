"""open_clip and torchvision, imported without what takes seconds and most models never use.

torchvision imports torch's compiler for one function, and open_clip imports timm, which makes the
image towers of some of its models; see `load_timm`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMPILER, TIMM = "torch._dynamo.utils", "timm"


class _Late(ModuleType):
    """Stands for torch's compiler until something of it is called."""

    @staticmethod
    def is_compile_supported(device: str) -> bool:
        """Call what `torchvision.ops` imports."""
        return bool(_compiler("is_compile_supported")(device))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `inspect` asks every module for its file
            raise AttributeError(name)
        return _compiler(name)


def _compiler(name: str) -> Any:
    if isinstance(sys.modules.get(COMPILER), _Late):
        del sys.modules[COMPILER]
    return getattr(importlib.import_module(COMPILER), name)


@contextmanager
def _left_out() -> Iterator[None]:
    """Let imports do without the compiler and timm, unless they are imported already."""
    stand_ins: dict[str, Any] = {COMPILER: _Late(COMPILER), TIMM: None}  # None: not installed
    added = {name: module for name, module in stand_ins.items() if name not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name, module in added.items():
            if sys.modules.get(name) is module:
                sys.modules.pop(name, None)


with _left_out():
    import open_clip
    from open_clip import timm_model
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transformer import TextTransformer
    from torchvision.transforms import Compose, Normalize

__all__ = ["Compose", "Normalize", "SimpleTokenizer", "TextTransformer", "load_timm", "open_clip"]


def load_timm() -> None:
    """Let open_clip make models from timm's, if timm was left out."""
    if timm_model.timm is None:
        kept = timm_model.TimmModel  # which open_clip's other modules hold
        importlib.reload(timm_model)  # its methods look up timm's names there
        timm_model.TimmModel = kept
