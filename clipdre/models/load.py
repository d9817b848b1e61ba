"""Load models: from open_clip's registry, from a checkpoint, or the embedded one."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from textwrap import shorten
from typing import Any

import open_clip
import torch
from torch import Tensor

from clipdre.config import TINY_MODEL, EncodeConfig, Precision
from clipdre.core.density_ratio import unit
from clipdre.errors import ModelError
from clipdre.formats.folders.records import ModelRecord
from clipdre.models.checks import QUICK, check_checkpoint, needs_quick_gelu
from clipdre.models.encoder import OpenClipEncoder, split_transform
from clipdre.models.fingerprint import fingerprint
from clipdre.models.names import SCHEMAS, check_name
from clipdre.models.point_set import PointSetHead, check_features, find_head
from clipdre.models.text_tower import TextTower
from clipdre.models.tokenizer import bounded
from clipdre.words import closest

DTYPES = {
    Precision.FP32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
}
SHOWN_TAGS = 6
SHOWN_REASON = 300  # characters of a library's message
# Captions that test whether a text tower may be cut: short and long.
PROBES = ("a photo", "two dogs and a cat on the stairs of an old house", "red")


def load_encoder(config: EncodeConfig) -> OpenClipEncoder:
    """Load the model that `config` names.

    Raises
    ------
    ModelError
        If the model or its weights are unknown, missing or do not fit together, or if the model has
        no logit scale.
    """
    check_name(config)
    if not config.model.startswith(SCHEMAS):  # open_clip takes both spellings
        config = replace(config, model=config.model.replace("/", "-"))
    device = usable_device(config.device)
    precision = _resolved_precision(config.precision, device)
    name, pretrained = _open_clip_names(config)
    quick = needs_quick_gelu(name, pretrained)
    model, transform, tokenizer = _load(name, pretrained, quick)
    head = _head(name)
    scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
    if scale is None:
        raise ModelError(
            f"model {config.model} has no logit scale, so its logits are not log density ratios",
            "choose a contrastive model",
        )
    record = ModelRecord(
        name=config.model,
        pretrained=pretrained,
        digest=_digest(model, head),
        embedding_dim=_embedding_dim(model, tokenizer, head or unit),
        logit_scale=float(scale.detach().exp()),
        logit_bias=float(bias.detach()) if bias is not None else 0.0,
        precision=precision.value,
        preprocessing=json.loads(json.dumps(open_clip.get_model_preprocess_cfg(model))),
        activation=QUICK if quick else "",
        fingerprint=fingerprint(model, transform, tokenizer, head or unit),
        inner_product=head is not None,
    )
    dtype = DTYPES[precision]
    text = TextTower(model.eval(), tokenizer(list(PROBES)))
    geometry, scaling = split_transform(transform, device)
    model = model.to(device, dtype)
    return OpenClipEncoder(
        model, geometry, scaling, text, tokenizer, device, dtype, record, head or unit
    )


def weights_digest(model: torch.nn.Module) -> str:
    """Compute the SHA-256 of the names and values of the weights as loaded."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest(model: torch.nn.Module, head: PointSetHead | None) -> str:
    """Return the digest of all that is trained or drawn: the weights, and a point-set head."""
    weights = weights_digest(model)
    if head is None:
        return weights
    return hashlib.sha256(weights.encode() + head.encoded()).hexdigest()


def _head(name: str) -> PointSetHead | None:
    """Return the point-set head of a model in a folder; None if its features are vectors."""
    schema, _, folder = name.partition(":")
    return find_head(Path(folder)) if schema == "local-dir" else None


def _embedding_dim(model: Any, tokenizer: Any, head: Callable[[Tensor], Tensor]) -> int:
    with torch.inference_mode():
        features = model.eval().encode_text(tokenizer(["a photo"])).float()
        if isinstance(head, PointSetHead):
            check_features(head, features.shape[1])
        return int(head(features).shape[1])


def usable_device(name: str) -> torch.device:
    """Return the first of `usable_devices`."""
    return torch.device(usable_devices(name)[0])


def usable_devices(name: str) -> list[str]:
    """Return the devices that `name` lists, such as ``cuda:0,cuda:2``.

    ``auto`` and ``cuda`` stand for all GPUs; without GPUs, ``auto`` is the CPU.

    Raises
    ------
    ModelError
        If a device cannot be used.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto" and not count:
        return ["cpu"]
    if name in ("auto", "cuda") and count:
        return [f"cuda:{n}" for n in range(count)]
    names = [part.strip() for part in name.split(",")]
    for part in names:
        reason = _reason_unusable(part)
        if reason is not None:
            cure = "use `device` auto, cpu, or cuda:0 and the like"
            raise ModelError(f"`device` {part} cannot be used ({reason})", cure)
    return names


def _reason_unusable(device: str) -> str | None:
    """Return why torch cannot use a device, or None if it can."""
    try:
        torch.empty(1, device=torch.device(device))
    except (RuntimeError, AssertionError) as error:
        return "no such kind" if "device type" in str(error) else str(error).splitlines()[0]
    return None


def _resolved_precision(precision: Precision, device: torch.device) -> Precision:
    """Return the precision that "auto" stands for on a device.

    At a scale of 100, bf16 rounds logits by 0.2 nats and more; fp16 has three more bits, so GPUs
    use it. A CPU with AMX multiplies matrices of bf16 several times as fast as those of fp32, which
    is worth the rounding: of the best 30 % by any score, 99.5 % stay (`scripts/bench_score.py`).
    """
    if precision is not Precision.AUTO:
        return precision
    if device.type == "cuda":
        return Precision.FP16
    has_amx = device.type == "cpu" and _cpu_capabilities().get("amx_bf16", False)
    return Precision.BF16 if has_amx else Precision.FP32


def _cpu_capabilities() -> Mapping[str, object]:
    found: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return found


def _open_clip_names(config: EncodeConfig) -> tuple[str, str | None]:
    """Return open_clip's names for the model and its weights."""
    if config.model == TINY_MODEL:
        folder = resources.files("clipdre") / "tiny"
        return f"local-dir:{folder}", None
    if config.model.startswith(SCHEMAS):
        return config.model, None
    tags = open_clip.list_pretrained_tags_by_model(config.model)
    shown = ", ".join(tags[:SHOWN_TAGS]) + (", ..." if len(tags) > SHOWN_TAGS else "")
    known_weights = f"a checkpoint file or a tag such as {shown}" if tags else "a checkpoint file"
    cure = f"set `pretrained` to {known_weights}"
    if config.pretrained is None:
        raise ModelError(f"model {config.model} needs weights", cure)
    if config.pretrained not in tags and not Path(config.pretrained).is_file():
        problem = f"no pretrained tag {config.pretrained} for model {config.model}"
        raise ModelError(problem, closest(config.pretrained, tags) or cure)
    if config.pretrained not in tags:
        check_checkpoint(config.model, Path(config.pretrained))
    return config.model, config.pretrained


def _load(name: str, pretrained: str | None, quick: bool) -> tuple[Any, Any, Any]:
    try:
        with _quiet_open_clip():
            # First: weights are slow to download.
            tokenizer = bounded(open_clip.get_tokenizer(name))
            model, _, transform = open_clip.create_model_and_transforms(
                name,
                pretrained=pretrained,
                require_pretrained=True,
                weights_only=True,
                force_quick_gelu=quick,
            )
            return model, transform, tokenizer
    except ImportError as error:
        package = (error.name or "transformers").partition(".")[0]
        raise ModelError(
            f"model {name} needs the package {package}, which is not installed",
            "run pip install 'clipdre[transformers]'",
        ) from error
    except Exception as error:  # open_clip, torch and the hub have no common base class
        reason = shorten(" ".join(str(error).split()).rstrip("."), SHOWN_REASON, placeholder="...")
        raise ModelError(
            f"cannot load model {name} with weights {pretrained} ({reason or repr(error)})",
            "check that the checkpoint belongs to this model and that its hub can be reached",
        ) from error


# The switch of `_quiet_open_clip` is one for all threads: they load one after another.
_loading = threading.RLock()


@contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """Silence open_clip's log of an error that it also raises: clipdre reports it once."""
    with _loading:
        previous = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(previous)
