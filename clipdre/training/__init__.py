"""Train on a subset where it lies: its samples from the scored tars, and a loss that weighs them.

Torch loads with this module, so it is not among the names of `clipdre` itself.
"""

from clipdre.training.loss import ClipLoss
from clipdre.training.pipeline import SubsetDataset, dataset

__all__ = ["ClipLoss", "SubsetDataset", "dataset"]
