"""open_clip's trainer on a subset where it lies, with a weight for each pair.

python examples/train_open_clip.py SCORES COLUMN SHARE WEIGHT OPEN_CLIP_ARGUMENTS...

keeps the SHARE of the pairs with the largest COLUMN, and weighs their losses by the column WEIGHT.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import webdataset as wds
from open_clip_train import data as open_clip_data
from open_clip_train import main as trainer

from clipdre import training


class WeightedLoss(training.ClipLoss):
    """A loss that is given its weights aside: the trainer passes it the model's outputs only."""

    weights: torch.Tensor | None = None

    def forward(self, **outputs: Any) -> Any:
        """Return the loss with the weights of the batch."""
        return super().forward(**outputs, weights=self.weights)


class Batches:
    """The images and texts of a loader, as the trainer takes them."""

    def __init__(self, loader: Any, num_batches: int, num_samples: int) -> None:
        self.loader, self.num_batches, self.num_samples = loader, num_batches, num_samples

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for images, texts, weights in self.loader:
            WeightedLoss.weights = torch.as_tensor(weights)
            yield images, texts


class SharedEpoch:
    """Where the trainer sets the epoch."""

    def __init__(self, data: training.SubsetDataset) -> None:
        self.set_value = data.set_epoch


def tokens(text: bytes, tokenizer: Any) -> torch.Tensor:
    """Return the tokens of one caption."""
    return tokenizer(text)[0]


def load(rule: tuple[str, ...], args: Any, preprocess: Any, **options: Any) -> Any:
    """Return the data of open_clip's trainer."""
    scores, column, share, weight = rule
    data = training.dataset(
        scores, by=column, top=share, columns=[weight], shuffle=5000, seed=args.seed
    )
    batches = data.even_batches(args.batch_size, args.workers)
    pipeline = (
        data.decode("pilrgb")
        .to_tuple("jpg;png;jpeg;webp", "txt", weight)
        .map_tuple(preprocess, partial(tokens, tokenizer=options["tokenizer"]))
        .batched(args.batch_size, partial=False)
        .with_epoch(batches)
    )
    loader = wds.WebLoader(pipeline, batch_size=None, num_workers=args.workers)
    number = batches * max(1, args.workers)
    samples = number * args.batch_size * args.world_size
    return open_clip_data.DataInfo(Batches(loader, number, samples), shared_epoch=SharedEpoch(data))


def create_loss(args: Any) -> WeightedLoss:
    """Return the loss of open_clip's trainer."""
    options = {"rank": args.rank, "world_size": args.world_size, "local_loss": args.local_loss}
    return WeightedLoss(**options, gather_with_grad=args.gather_with_grad, normalize=True)


def main(arguments: list[str]) -> None:
    """Run the trainer with our data and loss in place of its own."""
    rule = tuple(arguments[:4])
    open_clip_data.get_dataset_fn = lambda *_: partial(load, rule)
    trainer.create_loss = create_loss
    trainer.main(["--train-data", rule[0], *arguments[4:]])


if __name__ == "__main__":
    main(sys.argv[1:])
