"""Captions cut at their end tokens have the vectors of full context, and others are not cut."""

import open_clip
import pytest
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP

from clipdre.models.text_tower import TextTower

CONTEXT, END = 20, 90
VISION = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=32)
CPU = torch.device("cpu")


def text(**changes):
    return CLIPTextCfg(
        context_length=CONTEXT, vocab_size=END + 1, width=32, heads=2, layers=2, **changes
    )


KINDS = {
    "clip": (open_clip.CLIP, text()),
    "clip-eos": (open_clip.CLIP, text(pool_type="eos", eos_id=END)),
    "custom": (CustomTextCLIP, text()),
    "custom-eos": (CustomTextCLIP, text(pool_type="eos", eos_id=END)),
    "siglip": (CustomTextCLIP, text(pool_type="last", no_causal_mask=True)),
    "last": (CustomTextCLIP, text(pool_type="last")),
    "coca": (CustomTextCLIP, text(embed_cls=True)),
    "bidirectional": (CustomTextCLIP, text(no_causal_mask=True)),
}
CUT = ("clip", "clip-eos", "custom", "custom-eos")


def tower(kind):
    torch.manual_seed(0)
    make, config = KINDS[kind]
    model = make(16, VISION, config).eval()
    seen = []
    part = model if make is open_clip.CLIP else model.text
    part.token_embedding.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    return model, TextTower(model, captions([5, 9, 2])), seen


def captions(lengths):
    rows = torch.zeros(len(lengths), CONTEXT, dtype=torch.long)
    for row, length in zip(rows, lengths, strict=True):
        row[: length - 1] = torch.randint(1, END, (length - 1,))
        row[length - 1] = END
    return rows


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_vectors_are_those_of_full_context(kind):
    model, tower_of_it, seen = tower(kind)
    tokens = captions([3, 20, 7, 7, 1, 12, 2])
    expected = model.encode_text(tokens)
    seen.clear()
    for most in (1, 24, 1000):
        torch.testing.assert_close(tower_of_it(tokens, CPU, most), expected, atol=1e-5, rtol=1e-4)
    lengths = {shape[1] for shape in seen}
    assert (min(lengths) < CONTEXT) == (kind in CUT)


@torch.inference_mode()
def test_equal_captions_are_encoded_once_and_the_most_at_once_is_kept():
    model, tower_of_it, seen = tower("clip")
    distinct = captions([4, 9, 5])
    tokens = distinct[[0, 1, 0, 2, 0, 1]]
    seen.clear()
    found = tower_of_it(tokens, CPU, 10)
    assert [tuple(shape) for shape in seen] == [(1, 9), (2, 5)]
    torch.testing.assert_close(found, model.encode_text(tokens), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_tower_that_looks_behind_the_end_is_given_full_context():
    model, _, _ = tower("clip")
    model.attn_mask.zero_()  # says it is causal, and is not
    tower_of_it = TextTower(model, captions([5, 9, 2]))
    tokens = captions([3, 12])
    torch.testing.assert_close(tower_of_it(tokens, CPU, 100), model.encode_text(tokens))
