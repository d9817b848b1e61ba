"""What `clipdre score` takes: one type per option, with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from clipdre.config import (
    DEFAULT_MODEL,
    DEFAULT_PRETRAINED,
    TINY_MODEL,
    Architecture,
    Decode,
    Normalization,
    Precision,
)

Output = Annotated[Path, typer.Option("--output", "-o", help="Score folder to write.")]
Shards = Annotated[
    Optional[list[str]],  # noqa: UP045 (evaluated at run time)
    typer.Argument(
        help="Folders, tars, globs, {00..99} patterns, URLs, or '-' for a list on stdin.",
        show_default=False,
    ),
]
Embeddings = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        help="Folder of DataComp metadata (parquet and npz) or clip-retrieval output, to score "
        "without encoding; instead of SHARDS."
    ),
]
Arch = Annotated[Architecture, typer.Option(help="Which of DataComp's models.")]
LogitScale = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(help="Of the model behind --embeddings. [DataComp: 100]"),
]
LogitBias = Annotated[float, typer.Option(help="The same, for SigLIP.")]
Model = Annotated[
    str,
    typer.Option(
        help=f"open_clip model, local-dir:PATH, hf-hub:NAME, or {TINY_MODEL} (demos and tests)."
    ),
]
Pretrained = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Registry tag or checkpoint file. "
        f"[default for {DEFAULT_MODEL}: {DEFAULT_PRETRAINED}]",
        show_default=False,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="auto (all GPUs, else the cpu), cpu, cuda (all GPUs), cuda:1, or several with commas: "
        "one process each, which take the shards in turn."
    ),
]
Precisions = Annotated[
    Precision, typer.Option(help="Arithmetic of the encoder; auto: fp16 on cuda, else fp32.")
]
DecodeWay = Annotated[
    Decode,
    typer.Option(
        help="fast: large JPEGs are scaled down by their decoder, in half the time; the pixels "
        "the model sees move by less than 1 % of full scale."
    ),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", "-b", min=1, help="Pairs encoded together.")
]
Workers = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(min=1, help="Decoding threads.  [default: one per core]"),
]
ReferenceWay = Annotated[
    str,
    typer.Option(
        help="exact: the whole pool; stratified: near counterparts exactly, a sample for the "
        "rest; sample: a uniform sample; auto: exact up to 32,768 pairs, else stratified; or "
        "the PATH of another run's score folder, whose pool is the reference."
    ),
]
Neighbors = Annotated[
    int, typer.Option(min=1, help="Near counterparts that stratified evaluates exactly, at least.")
]
Bulk = Annotated[
    int, typer.Option(min=2, help="Pairs of the uniform sample of stratified and sample.")
]
Normalize = Annotated[
    Normalization,
    typer.Option(help="tau: also write log_ratio_tau = logit + log tau, as SigLIP was trained."),
]
Tau = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(min=1, help="Negatives per positive in the model's training."),
]
ImageKey = Annotated[str, typer.Option(help="Suffixes of image members, comma-separated.")]
TextKey = Annotated[str, typer.Option(help="Suffix of the caption member, or json:FIELD.")]
DiscardEmbeddings = Annotated[
    bool, typer.Option("--discard-embeddings", help="Keep no embeddings once all is scored.")
]
MaxBadFraction = Annotated[
    float,
    typer.Option(min=0, max=1, help="Fail when a larger share of the samples than this is bad."),
]
MaxMemberBytes = Annotated[int, typer.Option(min=1, help="Larger members are failures.")]
MaxJsonBytes = Annotated[int, typer.Option(min=1, help="Larger json members are failures.")]
MaxCaptionBytes = Annotated[int, typer.Option(min=1, help="Longer captions are failures.")]
MaxPixels = Annotated[int, typer.Option(min=1, help="Larger images are failures.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Drop what another run left in the output.")
]
