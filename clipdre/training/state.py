"""How far a pass over a subset has come, and whether another pass may continue it."""

from __future__ import annotations

from typing import Any

import msgspec

from clipdre.errors import UsageError
from clipdre.formats.folders.records import Count, Record
from clipdre.words import changed

CURE = "load it into the dataset that it was taken from, or begin the epoch anew"
# What has to be the same, and how messages call it.
SAME = {"shuffle": "`shuffle`", "seed": "`seed`", "world": "number of ranks"}


class State(Record, frozen=True, kw_only=True):
    """Place of a pass.

    Attributes
    ----------
    subset : str
        Digest of the index.
    shuffle, seed, epoch : int
    world : int
        Number of ranks.
    positions : tuple of int
        Samples that each worker of a rank has handed out.
    first : int
        Worker whose turn it is to give the next batch.
    """

    subset: str
    shuffle: Count
    seed: int
    world: Count
    epoch: int
    positions: tuple[Count, ...]
    first: Count = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the state as numbers and strings, for a checkpoint."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    def continued(self, raw: dict[str, Any]) -> State:
        """Return the state in `raw`; `UsageError` unless it continues a pass like this one."""
        try:
            state = msgspec.convert(raw, type=State)
        except msgspec.ValidationError as error:
            raise UsageError(f"this is not a state of a dataset ({error})", CURE) from error
        if state.subset != self.subset:
            raise UsageError("the state is of another subset", CURE)
        for name, words in SAME.items():
            then, now = getattr(state, name), getattr(self, name)
            if then != now:
                raise UsageError(f"the state is of another {words} ({changed(then, now)})", CURE)
        if not state.first < len(state.positions):
            raise UsageError("this is not a state of a dataset (it has no such worker)", CURE)
        return state
