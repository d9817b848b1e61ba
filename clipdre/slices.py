"""Slices: the part of a run that one of several machines does."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from clipdre.errors import UsageError

# What would drop the work of others: a problem, and its cure.
OVERWRITES = (
    "`slice` cannot be used with `overwrite`, which drops what other slices wrote",
    "remove the folder first, or choose another `output`",
)
AUTO, VARIABLE = "auto", "CLIPDRE_SLICE"
WRITTEN = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
# Of a SLURM job array.
TASK, FIRST, STEP, TASKS = (f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "STEP", "COUNT"))


@dataclass(frozen=True)
class Slice:
    """Slice `index` of `count`, counted from 1, as ``2/8``.

    Which items a slice takes depends on their positions and on `count` alone, so all machines
    agree without talking to each other.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(
                f"`slice` {self} does not exist", f"use one of 1/{self.count} to {self.last}"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def last(self) -> str:
        """The last slice, as it is written."""
        return f"{self.count}/{self.count}"

    def takes(self, position: int) -> bool:
        """Whether the item at a position, counted from 0, is in this slice."""
        return position % self.count == self.index - 1


def parse_slice(text: str, variables: Mapping[str, str] = os.environ) -> Slice:
    """Return the slice that ``2/8`` stands for, or that the environment names for ``auto``.

    Raises
    ------
    UsageError
        If it is not a slice, or lies outside of its count.
    """
    if text == AUTO:
        return _of_environment(variables)
    found = WRITTEN.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"`slice` {text!r} is not a slice", f"use 1/8 to 8/8, or {AUTO}")
    return Slice(int(found[1]), int(found[2]))


def as_slice(text: str | None) -> Slice | None:
    """Return the slice that an argument names; None if it is not given."""
    return None if text is None else parse_slice(text)


def _of_environment(variables: Mapping[str, str]) -> Slice:
    if VARIABLE in variables:
        value = variables[VARIABLE]
        return parse_slice(value if WRITTEN.fullmatch(value.strip()) else f"{VARIABLE}={value}")
    task, first, tasks, step = (_number(name, variables) for name in (TASK, FIRST, TASKS, STEP))
    if step < 1 or (task - first) % step:
        raise UsageError(f"{TASK} {task} is not a step of {step} from {first}", f"set {VARIABLE}")
    return Slice((task - first) // step + 1, tasks)


def _number(name: str, variables: Mapping[str, str]) -> int:
    text = variables.get(name, "1" if name == STEP else None)
    if text is None:
        raise UsageError(
            f"`slice` {AUTO} finds neither {VARIABLE} nor a SLURM job array ({name})",
            f"set {VARIABLE} to 1/8, or submit with sbatch --array=1-8",
        )
    if not text.isascii() or not text.isdecimal():
        raise UsageError(f"{name} is {text!r}, not a number", f"set {VARIABLE} to 1/8")
    return int(text)
