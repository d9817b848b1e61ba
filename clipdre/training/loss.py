"""CLIP's loss with a weight for each pair."""

from __future__ import annotations

import torch
from open_clip.loss import ClipLoss as OpenClipLoss
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional

from clipdre.errors import UsageError


class ClipLoss(OpenClipLoss):  # type: ignore[misc]
    """Open_clip's ``ClipLoss``, in which each pair has a weight.

    The loss of n pairs, those of all ranks, is

        L = 1/n * sum_i v_i * (CE(i, texts) + CE(i, images)) / 2

    where CE(i, texts) is the cross entropy of pair i's image over all texts, and CE(i, images) that
    of its text over all images. A pair's weight scales its own two terms. In those of the other
    pairs it is a negative like any other. The factors v_i are the weights w_i:

        v_i = min(w_i, clip)                            with `clip`
        v_i = min(w_i, clip) / mean_j min(w_j, clip)    with `clip` and `normalize`

    With weights of 1, or none, L is open_clip's loss, and so are its gradients.

    Parameters
    ----------
    clip : float or None
        Largest weight. It bounds the variance of importance weights, which biases the loss.
    normalize : bool
        Divide weights by their mean over the batch of all ranks (self-normalisation), so that the
        step size does not depend on their scale. A batch with weights of 0 alone has a loss of 0.
    local_loss, gather_with_grad, cache_labels, rank, world_size
        As for ``open_clip.loss.ClipLoss``. With `local_loss`, the sum is over the rank's own pairs
        and n is their number; the mean over ranks is L.

    Examples
    --------
    >>> import torch
    >>> from clipdre import training
    >>> images = texts = torch.eye(2)
    >>> loss = training.ClipLoss(clip=10.0, normalize=True)
    >>> float(loss(images, texts, logit_scale=0.0, weights=torch.tensor([1.0, 3.0])))  # log 2
    0.6931471824645996
    """

    def __init__(  # noqa: PLR0913 (open_clip's parameters, and two more)
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        *,
        clip: float | None = None,
        normalize: bool = False,
    ) -> None:
        super().__init__(local_loss, gather_with_grad, cache_labels, rank, world_size)
        if clip is not None and not clip > 0:
            raise UsageError(f"`clip` is {clip}", "set it to the largest weight, above 0")
        self.clip, self.normalize = clip, normalize

    def forward(  # noqa: PLR0913 (open_clip's parameters, and one more)
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
        weights: Tensor | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Return the loss, or with `output_dict` a dict of it as open_clip does.

        Parameters
        ----------
        image_features, text_features : Tensor of shape (pairs, d)
            Unit vectors of this rank's pairs.
        logit_scale : Tensor or float
            Factor of the cosines, exponentiated already.
        weights : Tensor of shape (pairs,), optional
            Of this rank's pairs, at least 0. Gradients do not flow into them.

        Raises
        ------
        UsageError
            If there is not one weight for each pair.
        """
        features = image_features, text_features
        per_image, per_text = self.get_logits(*features, logit_scale, logit_bias=logit_bias)
        labels = self.get_ground_truth(per_image.device, len(per_image))
        each = (
            functional.cross_entropy(per_image, labels, reduction="none")
            + functional.cross_entropy(per_text, labels, reduction="none")
        ) / 2
        if weights is not None:
            each = each * self._factors(weights, image_features)
        loss = each.mean()
        return {"contrastive_loss": loss} if output_dict else loss

    def _factors(self, weights: Tensor, features: Tensor) -> Tensor:
        """Return the factors of the pairs that this rank sums over."""
        if weights.shape != features.shape[:1]:
            shape = tuple(weights.shape)
            raise UsageError(
                f"`weights` have the shape {shape} for {len(features)} pairs",
                "pass one weight for each pair",
            )
        own = weights.detach().to(features.device, torch.float32)
        if self.clip is not None:
            own = own.clamp(max=self.clip)
        every = self._gathered(own)
        if self.normalize:
            mean = every.mean().clamp_min(torch.finfo(torch.float32).tiny)
            own, every = own / mean, every / mean
        return own if self.local_loss else every

    def _gathered(self, own: Tensor) -> Tensor:
        """Return the weights of all ranks, in the order of open_clip's features."""
        if self.world_size == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)
