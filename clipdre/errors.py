"""What can go wrong, as a tree. Each message is one line that names the thing and the cure.

ClipdreError                   whatever a user can cause; the command line prints it and exits 1
 +- InputError                 shards that are missing, unreadable, or changed since scoring
 +- ModelError                 a model or checkpoint that cannot be used
 +- ScoresError                a score folder that is missing, unfinished, or of another run
 +- SelectionError             a selection that names no column, is no condition, cannot be met
 +- OutputError                an output that exists already or cannot be written
"""

from __future__ import annotations


class ClipdreError(Exception):
    """Base of all errors that a user can cause and mend."""


class InputError(ClipdreError):
    """Shards that are missing, unreadable, or changed since they were scored."""


class ModelError(ClipdreError):
    """A model or checkpoint that cannot be used."""


class ScoresError(ClipdreError):
    """A score folder that is missing, unfinished, or of another run."""


class SelectionError(ClipdreError):
    """A selection that names no column, is no condition, or cannot be met."""


class OutputError(ClipdreError):
    """An output that exists already or cannot be written."""


class UnreliableEstimateWarning(UserWarning):
    """A score that another draw of the reference would not give."""
