"""What can go wrong, as a tree.

ClipdreError                   anything a user can cause and mend
 +- UsageError                 options that do not go together
 +- InputError                 shards that are missing, unreadable, or changed since scoring
 +- ModelError                 a model or checkpoint that cannot be used
 +- ScoresError                a score folder that is missing, unfinished, or from another run
 +- SelectionError             a selection that names an unknown column or cannot be met
 +- OutputError                an output that exists already or cannot be written

Each error has a problem and a cure, one line together. Both name parameters in backticks, as Python
users give them (`max_bytes`); the command line shows them as its options (--max-bytes).
"""

from __future__ import annotations

# Paths in messages to what users call them: working copies of folders in stores.
NAMES: dict[str, str] = {}


def named(text: str) -> str:
    """Return a message in which folders in stores have the names that users gave them."""
    for path, name in NAMES.items():
        text = text.replace(path, name)
    return text


class ClipdreError(Exception):
    """Base of all errors that a user can cause and mend.

    Parameters
    ----------
    problem : str
        What is wrong, in one line.
    cure : str
        What to do about it.
    """

    def __init__(self, problem: str, cure: str = "") -> None:
        problem, cure = named(problem), named(cure)
        super().__init__(problem, cure)  # both, so that it survives pickling between processes
        self.problem = problem
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.problem}: {self.cure}" if self.cure else self.problem


class UsageError(ClipdreError):
    """Options that do not go together."""


class InputError(ClipdreError):
    """Shards that are missing, unreadable, or changed since they were scored."""


class ModelError(ClipdreError):
    """A model or checkpoint that cannot be used."""


class ScoresError(ClipdreError):
    """A score folder that is missing, unfinished, or from another run."""


class SelectionError(ClipdreError):
    """A selection that names an unknown column, is not a condition, or cannot be met."""


class OutputError(ClipdreError):
    """An output that exists already or cannot be written."""


class UnreliableEstimateWarning(UserWarning):
    """A score that another draw of the reference would change."""
