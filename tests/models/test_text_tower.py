"""Captions cut after their end tokens have the vectors of full context; other towers get it all."""

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
def test_vectors_match_full_context(kind):
    model, text_tower, seen = tower(kind)
    tokens = captions([3, 20, 7, 7, 1, 12, 2])
    expected = model.encode_text(tokens)
    seen.clear()
    for max_tokens in (1, 24, 1000):
        torch.testing.assert_close(
            text_tower(tokens, CPU, max_tokens), expected, atol=1e-5, rtol=1e-4
        )
    lengths = {shape[1] for shape in seen}
    assert (min(lengths) < CONTEXT) == (kind in CUT)


@torch.inference_mode()
def test_encodes_equal_captions_once_in_batches_of_bounded_size():
    model, text_tower, seen = tower("clip")
    distinct = captions([4, 9, 5])
    tokens = distinct[[0, 1, 0, 2, 0, 1]]
    seen.clear()
    found = text_tower(tokens, CPU, 10)
    assert [tuple(shape) for shape in seen] == [(1, 9), (2, 5)]
    torch.testing.assert_close(found, model.encode_text(tokens), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_tower_that_depends_on_later_tokens_gets_full_context():
    model, _, _ = tower("clip")
    model.attn_mask.zero_()  # claims to be causal but is not
    text_tower = TextTower(model, captions([5, 9, 2]))
    tokens = captions([3, 12])
    torch.testing.assert_close(text_tower(tokens, CPU, 100), model.encode_text(tokens))
