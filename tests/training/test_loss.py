from datetime import timedelta

import pytest
import torch
from open_clip.loss import ClipLoss as OpenClipLoss
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.nn.functional import normalize

from clipdre.errors import UsageError
from clipdre.training import ClipLoss

SCALE, N, D = 20.0, 8, 6


def features(n=N, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [normalize(torch.randn(n, D, generator=rng), dim=1).requires_grad_() for _ in range(2)]


def weights_of(n=N):
    return torch.rand(n, generator=torch.Generator().manual_seed(1)) * 3


def oracle(images, texts, factors):
    """The formula of the docstring, pair by pair."""
    logits = SCALE * images @ texts.T
    total = 0.0
    for i in range(len(images)):
        over_texts = torch.logsumexp(logits[i], 0) - logits[i, i]
        over_images = torch.logsumexp(logits[:, i], 0) - logits[i, i]
        total = total + factors[i] * (over_texts + over_images) / 2
    return total / len(images)


@pytest.mark.parametrize("bias", [None, -3.0])
def test_without_weights_it_is_open_clips(bias):
    pairs = features()
    expected = OpenClipLoss()(*pairs, SCALE, bias)
    gradients = torch.autograd.grad(expected, pairs)
    for options in ({}, {"clip": 2.0}, {"normalize": True}):
        for weights in (None, torch.ones(N)):
            found = ClipLoss(**options)(*pairs, SCALE, bias, weights=weights)
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(torch.autograd.grad(found, pairs), gradients)
    found = ClipLoss()(*pairs, SCALE, output_dict=True)
    assert list(found) == list(OpenClipLoss()(*pairs, SCALE, output_dict=True))


def test_is_its_formula():
    pairs, weights = features(), weights_of()
    clipped = weights.clamp(max=1.5)
    assert (clipped < weights).any()
    for options, factors in (
        ({}, weights),
        ({"clip": 1.5}, clipped),
        ({"normalize": True}, weights / weights.mean()),
        ({"clip": 1.5, "normalize": True}, clipped / clipped.mean()),
    ):
        expected = oracle(*pairs, factors)
        found = ClipLoss(**options)(*pairs, SCALE, weights=weights.double())
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found, pairs), torch.autograd.grad(expected, pairs)
        )


def test_weights_of_zero_give_zero():
    loss = ClipLoss(normalize=True)(*features(), SCALE, weights=torch.zeros(N)).detach()
    assert loss.item() == 0.0


def test_refuses_what_it_cannot_use():
    with pytest.raises(UsageError, match=r"`weights` have the shape \(8, 1\) for 8 pairs"):
        ClipLoss()(*features(), SCALE, weights=torch.ones(N, 1))
    for clip in (0.0, float("nan")):
        with pytest.raises(UsageError, match="`clip` is"):
            ClipLoss(clip=clip)


def gathered(rank, world, file, out):
    """One rank: losses and gradients of its share of the pairs."""
    options = {"rank": rank, "world_size": world}
    dist.init_process_group(
        "gloo", init_method=f"file://{file}", timeout=timedelta(seconds=60), **options
    )
    try:
        found = {
            (local, with_grad, kind): shared_loss(kind, local, with_grad, options)
            for local in (False, True)
            for with_grad in (False, True)
            for kind in ("plain", "weighted", "normalized", "ones")
        }
    finally:
        dist.destroy_process_group()
    torch.save(found, f"{out}/{rank}.pt")


def shared_loss(kind, local, with_grad, options):
    """Return the mean of the loss over ranks, and this rank's gradients."""
    rank, world = options["rank"], options["world_size"]
    mine = slice(rank * N // world, (rank + 1) * N // world)
    pairs = [half.detach()[mine].requires_grad_() for half in features()]
    options = options | {"local_loss": local, "gather_with_grad": with_grad}
    if kind == "plain":
        loss = OpenClipLoss(**options)(*pairs, SCALE)
    else:
        more = {"clip": 1.5, "normalize": True} if kind == "normalized" else {}
        weights = torch.ones(N) if kind == "ones" else weights_of()
        loss = ClipLoss(**options, **more)(*pairs, SCALE, weights=weights[mine])
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    return mean / world, torch.autograd.grad(loss, pairs)


@pytest.mark.filterwarnings("ignore:torch.distributed.nn:FutureWarning")
def test_two_processes_give_the_loss_of_one(tmp_path):
    options = 2, tmp_path / "meet", str(tmp_path)
    other = mp.get_context("spawn").Process(target=gathered, args=(1, *options), daemon=True)
    other.start()
    gathered(0, *options)
    other.join(60)
    assert other.exitcode == 0
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    pairs, weights = features(), weights_of()
    clipped = weights.clamp(max=1.5)
    factors = {
        "plain": torch.ones(N),
        "ones": torch.ones(N),
        "weighted": weights,
        "normalized": clipped / clipped.mean(),
    }
    for (local, with_grad, kind), (mean, own) in ranks[0].items():
        expected = oracle(*pairs, factors[kind])
        torch.testing.assert_close(mean, expected.detach())
        if with_grad:
            # The gradient of the mean over ranks; each rank holds half of the features.
            both = [
                torch.cat(parts)
                for parts in zip(own, ranks[1][local, with_grad, kind][1], strict=True)
            ]
            for found, exact in zip(both, torch.autograd.grad(expected, pairs), strict=True):
                torch.testing.assert_close(found / 2, exact)
        if kind == "ones":
            torch.testing.assert_close(own, ranks[0][local, with_grad, "plain"][1])
    assert len(ranks[0]) == 16
