"""Inputs of benchmarks: JPEGs like photographs, captions, random weights, records of folders."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

from clipdre import __version__
from clipdre.formats.folders.manifest import Manifest
from clipdre.formats.folders.records import ModelRecord, ReferenceRecord, ShardRecord

WORDS = (
    "a the of and with in on at for from by new old small large red blue green white black "
    "photo picture vintage wooden kitchen table summer dress women men shoes house garden "
    "mountain lake sunset city street night portrait wedding cake recipe chocolate leather "
    "handbag car engine dog cat horse river bridge stock vector illustration design pattern "
    "background free download best price online store review set piece cotton silver ring "
    "necklace poster wall art canvas"
)
WORDS_MEDIAN, WORDS_SPREAD, WORDS_MOST = 9, 0.6, 60


def model_record(d: int, logit_scale: float = 100.0) -> ModelRecord:
    """Return the record of a model of `d` dimensions."""
    return ModelRecord(
        name="synthetic",
        pretrained=None,
        digest="synthetic",
        embedding_dim=d,
        logit_scale=logit_scale,
        logit_bias=0.0,
        precision="fp32",
        preprocessing={},
    )


def finished_manifest(shards: list[ShardRecord], d: int = 512) -> Manifest:
    """Return the manifest of a finished score folder, with an exact reference."""
    model = model_record(d)
    reference = ReferenceRecord(
        method="exact",
        pairs=sum(shard.rows for shard in shards),
        bulk=0,
        folds=0,
        neighbors=0,
        model_digest=model.digest,
        logit_scale=model.logit_scale,
        logit_bias=model.logit_bias,
        embedding_dim=d,
        digest="synthetic",
    )
    return Manifest(
        clipdre_version=__version__,
        model=model,
        settings={"read": {}},
        shards=tuple(shards),
        reference=reference,
        complete=True,
    )


def photo(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Draw noise with a 1/f spectrum, like that of photographs."""
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falloff = np.hypot(rows, columns)
    falloff[0, 0] = 1
    shape = (3, *falloff.shape)
    spectrum = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / falloff
    values = np.fft.irfft2(spectrum, (height, width)).transpose(1, 2, 0)
    return Image.fromarray((128 + 50 * values / values.std()).clip(0, 255).astype(np.uint8))


def caption(rng: np.random.Generator) -> str:
    """Draw a caption of common words, with log-normal length as in pools from the web."""
    count = int(np.exp(rng.normal(np.log(WORDS_MEDIAN), WORDS_SPREAD)).clip(1, WORDS_MOST))
    return " ".join(rng.choice(WORDS.split(), count))


def random_weights(model: str, path: Path) -> str:
    """Write a random checkpoint of open_clip's `model`: speed does not depend on weights."""
    torch.manual_seed(0)
    torch.save(open_clip.create_model(model).state_dict(), path)
    return str(path)


def write_shard(path: Path, pairs: int, side: int, seed: int = 0, drawn: int = 32) -> None:
    """Write a tar of JPEGs whose longer side is `side`, cycling through `drawn` different ones."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(min(drawn, pairs)):
        buffer = io.BytesIO()
        photo(side, side * 3 // 4, rng).save(buffer, "JPEG", quality=90)
        images.append(buffer.getvalue())
    with tarfile.open(path, "w") as tar:
        for n in range(pairs):
            members = {"jpg": images[n % len(images)], "txt": caption(rng).encode()}
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{seed:03d}{n:06d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
