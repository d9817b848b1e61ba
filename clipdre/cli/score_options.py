"""Options of `clipdre score`: one type per option, with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdre.cli.common_options import no_stream, score_folder
from clipdre.cli.numbers import Count, parse_bytes
from clipdre.config import (
    DEFAULT_MODEL,
    DEFAULT_PRETRAINED,
    IMAGE_SUFFIXES,
    TINY_MODEL,
    Architecture,
    Decode,
    Normalization,
    Own,
    Precision,
)

MODEL, READING, REFERENCE, RUN = "Model", "Reading", "Reference", "Run"
PREVIEW = "Preview"

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Score folder to write, a path or a URL in a store; needed unless --dry-run.",
        metavar="SCORES",
        parser=score_folder,
        callback=no_stream,
        rich_help_panel=RUN,
    ),
]
Shards = Annotated[
    list[str] | None,
    typer.Argument(
        help="Folders (with their subfolders), tars, globs (** for any depth), {00..99} patterns, "
        "URLs, or '-' for a list on stdin.",
        metavar="SHARDS",
        show_default=False,
    ),
]
Embeddings = Annotated[
    Path | None,
    typer.Option(
        help="Score folder, DataComp metadata (parquet and npz) or clip-retrieval output, scored "
        "without encoding; instead of SHARDS. A row without a key (uid, image_path) is named by "
        "its number.",
        metavar="FOLDER",
        parser=score_folder,
        rich_help_panel=MODEL,
    ),
]
Architectures = Annotated[
    Architecture,
    typer.Option(
        "--arch",
        help="Model of DataComp's metadata; only with --embeddings.",
        rich_help_panel=MODEL,
    ),
]
LogitScale = Annotated[
    float | None,
    typer.Option(
        help="Logit scale of the model that produced --embeddings.  (DataComp: 100)",
        metavar="SCALE",
        rich_help_panel=MODEL,
    ),
]
LogitBias = Annotated[
    float,
    typer.Option(
        help="Logit bias of the model that produced --embeddings, for SigLIP.",
        metavar="BIAS",
        rich_help_panel=MODEL,
    ),
]
InnerProduct = Annotated[
    bool,
    typer.Option(
        "--inner-product",
        help="Take the vectors of --embeddings as they are, of any length: logits are of inner "
        "products, not of cosines.",
        rich_help_panel=MODEL,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help=f"open_clip model, local-dir:PATH, hf-hub:NAME, or {TINY_MODEL} (demos and tests).",
        metavar="NAME",
        rich_help_panel=MODEL,
    ),
]
Pretrained = Annotated[
    str | None,
    typer.Option(
        help="Registry tag or checkpoint file.  "
        f"(default for {DEFAULT_MODEL}: {DEFAULT_PRETRAINED})",
        metavar="TAG",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="auto (all GPUs, else the cpu), cpu, cuda (all GPUs), cuda:1, or several, separated "
        "by commas; each is a process that takes the next shard.",
        metavar="DEVICE",
        rich_help_panel=RUN,
    ),
]
Precisions = Annotated[
    Precision,
    typer.Option(
        help="Arithmetic of the encoder: fp32, bf16, fp16, or auto (fp16 on cuda, bf16 on a CPU "
        "with AMX, else fp32).",
        metavar="TYPE",
        rich_help_panel=MODEL,
    ),
]
DecodeWay = Annotated[
    Decode,
    typer.Option(
        help="Decoding of JPEGs: exact, or fast, which scales large images down in half the time; "
        "the model's pixels change by less than 1% of full scale.",
        metavar="MODE",
        rich_help_panel=READING,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        "-b",
        parser=Count(),
        help="Pairs encoded together.",
        metavar="N",
        rich_help_panel=RUN,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Decoding threads.  (default: one per usable core)",
        metavar="N",
        show_default=False,
        rich_help_panel=RUN,
    ),
]
ReferenceWay = Annotated[
    str,
    typer.Option(
        help="exact: the whole pool; stratified: near counterparts exactly, a sample for the "
        "rest; sample: a uniform sample; auto: exact up to 32,768 pairs, else stratified; or "
        "the PATH of another run's score folder, whose pool is the reference.",
        metavar="METHOD",
        rich_help_panel=REFERENCE,
    ),
]
Neighbors = Annotated[
    int,
    typer.Option(
        parser=Count(),
        help="Least number of near counterparts that stratified evaluates exactly.",
        metavar="N",
        rich_help_panel=REFERENCE,
    ),
]
Bulk = Annotated[
    int,
    typer.Option(
        parser=Count(2),
        help="Pairs in the uniform sample of stratified and sample.",
        metavar="N",
        rich_help_panel=REFERENCE,
    ),
]
Alike = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="Pairs whose images and whose captions have a cosine above this leave each other out "
        "of their references, so that a good pair is not punished for its copies; 1: copies only.",
        metavar="COSINE",
        rich_help_panel=REFERENCE,
    ),
]
OwnWay = Annotated[
    Own,
    typer.Option(
        help="left-out, or counted: each pair and those alike to it are in its reference too, as "
        "in the published code.",
        metavar="MODE",
        rich_help_panel=REFERENCE,
    ),
]
Normalize = Annotated[
    Normalization,
    typer.Option(
        help="reference, or tau, which adds columns that read tau exp(logit) as the density ratio, "
        "as SigLIP was trained.",
        metavar="BY",
        rich_help_panel=REFERENCE,
    ),
]
Tau = Annotated[
    int | None,
    typer.Option(
        parser=Count(),
        help="Negatives per positive in the model's training.",
        metavar="N",
        rich_help_panel=REFERENCE,
    ),
]
KeepReference = Annotated[
    bool,
    typer.Option(
        "--keep-reference",
        help="When shards are added: score them against the reference that is there, and leave the "
        "other scores as they are. By default the reference is built again from all shards.",
        rich_help_panel=REFERENCE,
    ),
]
ImageKey = Annotated[
    str,
    typer.Option(
        help="Suffixes of image members, separated by commas.  "
        f"(default: {', '.join(IMAGE_SUFFIXES)})",
        metavar="SUFFIXES",
        show_default=False,
        rich_help_panel=READING,
    ),
]
TextKey = Annotated[
    list[str] | None,
    typer.Option(
        help="Suffix of the caption member, or json:FIELD. Given several times, each image has "
        "several captions, a row each; a sample counts once for each.  (default: txt)",
        metavar="SUFFIX",
        show_default=False,
        rich_help_panel=READING,
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        help="Fields of the json member to keep as columns: json:FIELD, several separated by "
        "commas. A field that is named like a column of clipdre becomes json_FIELD; a value longer "
        "than --max-caption-bytes is null.",
        metavar="json:FIELD",
        show_default=False,
        rich_help_panel=READING,
    ),
]
DiscardEmbeddings = Annotated[
    bool,
    typer.Option(
        "--discard-embeddings",
        help="Delete the embeddings once everything is scored.",
        rich_help_panel=RUN,
    ),
]
MaxBadFraction = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="Fail if a larger share of the samples is bad.",
        metavar="SHARE",
        rich_help_panel=READING,
    ),
]
MaxMemberBytes = Annotated[
    int,
    typer.Option(
        parser=parse_bytes,
        help="Reject members larger than this.",
        metavar="SIZE",
        rich_help_panel=READING,
    ),
]
MaxJsonBytes = Annotated[
    int,
    typer.Option(
        parser=parse_bytes,
        help="Reject json members larger than this.",
        metavar="SIZE",
        rich_help_panel=READING,
    ),
]
MaxCaptionBytes = Annotated[
    int,
    typer.Option(
        parser=parse_bytes,
        help="Reject captions longer than this.",
        metavar="SIZE",
        rich_help_panel=READING,
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        parser=Count(),
        help="Reject images with more pixels, or that need more memory than 12 bytes for each.",
        metavar="N",
        rich_help_panel=READING,
    ),
]
Prune = Annotated[
    bool,
    typer.Option(
        "--prune",
        help="Drop the rows of shards that are not among SHARDS any more, or have changed.",
        rich_help_panel=RUN,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace what another run left in the output.", rich_help_panel=RUN
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Encode some pairs, and report pairs per second on this device, what limits them, and "
        "time and disk for the whole pool; write nothing.",
        rich_help_panel=PREVIEW,
    ),
]
Limit = Annotated[
    int,
    typer.Option(
        parser=Count(),
        help="Samples that --dry-run tries, from the beginnings of several shards.",
        metavar="N",
        rich_help_panel=PREVIEW,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print the dry run as JSON.", rich_help_panel=PREVIEW),
]
