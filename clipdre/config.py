"""Frozen settings, one object per stage."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from clipdre.errors import UsageError
from clipdre.slices import Slice

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "avif")
DEFAULT_MODEL = "ViT-L-14"
DEFAULT_PRETRAINED = "datacomp_xl_s13b_b90k"
TINY_MODEL = "clipdre-tiny"
# Seconds that one pass over the scores may take.
TIME_LIMIT = 600.0


class Precision(StrEnum):
    """Arithmetic of the encoder."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Decode(StrEnum):
    """How JPEGs are decoded: exactly, or scaled down by their decoder."""

    EXACT = "exact"
    FAST = "fast"


class ReferenceMethod(StrEnum):
    """How the pool's marginals are computed."""

    AUTO = "auto"
    EXACT = "exact"
    STRATIFIED = "stratified"
    SAMPLE = "sample"


class Own(StrEnum):
    """Whether a pair's own counterpart, and those of its copies, are in its reference."""

    LEFT_OUT = "left-out"
    COUNTED = "counted"


class Normalization(StrEnum):
    """What normalises a ratio: the reference, or the negatives of the model's training."""

    REFERENCE = "reference"
    TAU = "tau"


class Architecture(StrEnum):
    """Models of DataComp's metadata."""

    B32 = "b32"
    L14 = "l14"


class SubsetFormat(StrEnum):
    """Formats that `filter` and `emit` write."""

    TAR = "tar"
    INDEX = "index"
    KEYS = "keys"
    UIDS = "uids"
    PARQUET = "parquet"
    ARROW = "arrow"
    CSV = "csv"
    JSONL = "jsonl"


class Best(StrEnum):
    """What a selection may keep one of for each sample."""

    CAPTION = "caption"


class ExportFormat(StrEnum):
    """Tables that `export` writes."""

    LANCE = "lance"


class JoinKey(StrEnum):
    """Names by which rows of joined files are matched."""

    KEY_HASH = "key_hash"
    SHARD_KEY = "shard,key"
    UID = "uid"
    KEY = "key"

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, one or two."""
        return tuple(self.value.split(","))


@dataclass(frozen=True)
class CaptionSource:
    """Where a caption is: a member of this suffix, or a field of the json member."""

    suffix: str
    field: str | None = None

    def __str__(self) -> str:
        return self.suffix if self.field is None else f"json:{self.field}"


@dataclass(frozen=True)
class ReadConfig:
    """How shards are read.

    Attributes
    ----------
    image_suffixes : tuple of str
        Suffixes of members that hold the image.
    caption_suffix : str
        Suffix of the member that holds the caption.
    caption_field : str or None
        If given, the caption is this field of the json member.
    more_captions : tuple of str
        Further captions of each image: suffixes, or ``json:FIELD``. Each sample then counts once
        for each caption it should have: as a row or a failure.
    keep : tuple of str
        Fields of the json member that become columns. A value longer than a caption may be is null.
    decode : Decode
    max_member_bytes, max_json_bytes, max_caption_bytes, max_pixels, max_aspect_ratio
        Anything larger is recorded as a failure, not read or decoded: strangers made these files.
        `max_pixels` also limits the memory and the scans of an image, see
        `clipdre.formats.tars.limits`.
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
    keep: tuple[str, ...] = ()
    more_captions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.captions)) < len(self.captions):
            raise UsageError("two of `more_captions` are the same caption", "drop one of them")

    @cached_property
    def captions(self) -> tuple[CaptionSource, ...]:
        """Where captions are, in order."""
        first = CaptionSource(self.caption_suffix, self.caption_field)
        parts = (name.partition(":") for name in self.more_captions)
        more = (CaptionSource(kind, field if colon else None) for kind, colon, field in parts)
        return (first, *more)


@dataclass(frozen=True)
class EncodeConfig:
    """How samples become embeddings. Batch size, workers and device do not change results."""

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
        Near counterparts that `stratified` evaluates exactly per pair, on average; more if their
        mass requires it.
    bulk : int
        Pairs of the uniform sample that stands for the rest of the pool (`sample`: all of it).
    saved : str or None
        Path of another run's score folder, whose reference is used instead.
    tau : int or None
        Negatives per positive in the model's training: adds `log_ratio_tau` and the like.
    alike : float
        Pairs whose images and whose captions have a cosine above this leave each other out of
        their references. Copies always do. A saved reference brings its own.
    own : Own
        ``counted`` leaves nothing out, as the published code does.
    """

    method: ReferenceMethod = ReferenceMethod.AUTO
    neighbors: int = 2048
    bulk: int = 2048
    saved: str | None = None
    tau: int | None = None
    alike: float = 0.95
    own: Own = Own.LEFT_OUT


class EngineName(StrEnum):
    """Where the work of a run is done: on this machine, or on a Ray cluster."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True)
class EngineConfig:
    """Where the work of a run is done, which does not change results.

    Attributes
    ----------
    name : EngineName
    address : str or None
        ``HOST:PORT`` of a Ray cluster; None is the one of ``RAY_ADDRESS`` or of this machine, or
        else a new one on this machine.
    cpus_per_worker : int or None
        CPUs of each of Ray's workers; None shares those of the smallest node among its GPUs, or
        gives them all to one worker.
    """

    name: EngineName = EngineName.LOCAL
    address: str | None = None
    cpus_per_worker: int | None = None


@dataclass(frozen=True)
class RunConfig:
    """What a scoring run does with its folder.

    Attributes
    ----------
    overwrite : bool
        Drop what another run left in the output.
    discard_embeddings : bool
        Keep no embeddings of the pool once it is scored.
    max_bad_fraction : float
        Share of samples that may fail.
    keep_reference : bool
        Score shards that are added against the reference that is there; it is built again by
        default.
    prune : bool
        Drop the rows of shards that are not among those given, or have changed.
    slice : Slice or None
        Encode only the shards of this slice, and estimate nothing.
    engine : EngineConfig
    """

    overwrite: bool = False
    discard_embeddings: bool = False
    max_bad_fraction: float = 1.0
    keep_reference: bool = False
    prune: bool = False
    slice: Slice | None = None
    engine: EngineConfig = EngineConfig()


@dataclass(frozen=True)
class MeasureConfig:
    """How a scorer's columns are measured; only the suffix shows in the result.

    Attributes
    ----------
    suffix : str
        Added to the names of the columns and of their folder, so that one scorer can be measured
        with several settings.
    device : str
        As for `clipdre score`.
    overwrite : bool
        Replace columns that were measured with other settings, once the new ones are complete.
    rows_at_once : int
        Rows that are read together; bounds memory.
    engine : EngineConfig
    """

    suffix: str = ""
    device: str = "auto"
    overwrite: bool = False
    rows_at_once: int = 8192
    engine: EngineConfig = EngineConfig()


@dataclass(frozen=True)
class EmitConfig:
    """How kept samples become shards. Neither writers nor engine change results.

    Attributes
    ----------
    shard_size : int
        Largest number of samples per tar.
    max_bytes : int or None
        Largest number of bytes per tar; a larger sample gets a tar of its own.
    shuffle_seed : int or None
        Seed of a random order; None is pool order.
    writers : int
        Tars written in parallel.
    card : bool
        Write a ``README.md`` with which the Hugging Face Hub loads the tars.
    write_caption : bool
        Put the caption of the row into each sample, as its ``txt`` member.
    slice : Slice or None
        Write only the tars of this slice, and no summary.
    engine : EngineConfig
    """

    shard_size: int = 10_000
    max_bytes: int | None = None
    shuffle_seed: int | None = None
    writers: int = 2
    card: bool = False
    write_caption: bool = False
    slice: Slice | None = None
    engine: EngineConfig = EngineConfig()


@dataclass(frozen=True)
class LookConfig:
    """What a page about a score folder shows, which decides its size.

    Attributes
    ----------
    columns : tuple of str
        Columns to show first, after the main scores.
    points : int
        Rows drawn where all pairs would be too many.
    thumbnails : int
        Pairs shown with their image.
    side : int
        Longest side of a thumbnail in pixels.
    blur_by : str or None
        SQL condition; thumbnails of pairs that fulfil it are blurred.
    engine : EngineConfig
        Where images are read and made small.
    """

    columns: tuple[str, ...] = ()
    points: int = 50_000
    thumbnails: int = 300
    side: int = 160
    blur_by: str | None = None
    engine: EngineConfig = EngineConfig()
