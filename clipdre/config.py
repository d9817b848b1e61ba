"""One frozen settings object per stage."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
DEFAULT_MODEL = "ViT-L-14"
DEFAULT_PRETRAINED = "datacomp_xl_s13b_b90k"
TINY_MODEL = "clipdre-tiny"
# Seconds that one pass over the scores may take.
TIME_LIMIT = 600.0


class Precision(str, Enum):
    """Arithmetic of the encoder."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Decode(str, Enum):
    """How JPEGs are decoded: whole, or scaled down by the decoder where that is hardly seen."""

    EXACT = "exact"
    FAST = "fast"


class ReferenceMethod(str, Enum):
    """How the pool's marginals are computed."""

    AUTO = "auto"
    EXACT = "exact"
    STRATIFIED = "stratified"
    SAMPLE = "sample"


class Normalization(str, Enum):
    """How a ratio's normalisation is had: from the reference, or from the model's training."""

    REFERENCE = "reference"
    TAU = "tau"


class Architecture(str, Enum):
    """Which of the two models in DataComp's metadata."""

    B32 = "b32"
    L14 = "l14"


class SubsetFormat(str, Enum):
    """What `filter` and `emit` write."""

    TAR = "tar"
    KEYS = "keys"
    UIDS = "uids"
    PARQUET = "parquet"
    ARROW = "arrow"
    CSV = "csv"
    JSONL = "jsonl"


@dataclass(frozen=True)
class ReadConfig:
    """What of a shard is read.

    Attributes
    ----------
    image_suffixes : tuple of str
        Suffixes of members that hold the image.
    caption_suffix : str
        Suffix of the member that holds the caption.
    caption_field : str or None
        With a value, the caption is this field of the json member.
    decode : Decode
    max_member_bytes, max_json_bytes, max_caption_bytes, max_pixels, max_aspect_ratio
        What is larger is not read or decoded but recorded as a failure: strangers made these files.
    """

    image_suffixes: tuple[str, ...] = IMAGE_SUFFIXES
    caption_suffix: str = "txt"
    caption_field: str | None = None
    decode: Decode = Decode.EXACT
    max_member_bytes: int = 256 * 1024 * 1024
    max_json_bytes: int = 16 * 1024 * 1024
    max_caption_bytes: int = 64 * 1024
    max_pixels: int = 89_478_485
    max_aspect_ratio: float = 200.0


@dataclass(frozen=True)
class EncodeConfig:
    """How samples become embeddings. Batch size, workers and device change no result."""

    model: str = DEFAULT_MODEL
    pretrained: str | None = DEFAULT_PRETRAINED
    device: str = "auto"
    precision: Precision = Precision.AUTO
    batch_size: int = 256
    workers: int = 4


@dataclass(frozen=True)
class EstimateConfig:
    """How the pool's marginals are computed.

    Attributes
    ----------
    method : ReferenceMethod
    neighbors : int
        Near counterparts that `stratified` evaluates exactly per pair, on average, or more where
        their mass asks for it.
    bulk : int
        Pairs of the uniform sample that stands for the rest of the pool (`sample`: for all of it).
    saved : str or None
        Path of another run's score folder: its reference is used, whatever the rest says.
    tau : int or None
        Negatives per positive that the model was trained against: adds `log_ratio_tau`.
    """

    method: ReferenceMethod = ReferenceMethod.AUTO
    neighbors: int = 2048
    bulk: int = 2048
    saved: str | None = None
    tau: int | None = None


@dataclass(frozen=True)
class EmitConfig:
    """How kept samples become shards. The number of writers changes no result.

    Attributes
    ----------
    shard_size : int
        Samples per tar, at most.
    max_bytes : int or None
        Bytes of samples per tar, at most; a larger sample is alone.
    shuffle_seed : int or None
        Seed of a random order; None is pool order.
    writers : int
        Tars that are written at once.
    """

    shard_size: int = 10_000
    max_bytes: int | None = None
    shuffle_seed: int | None = None
    writers: int = 2
