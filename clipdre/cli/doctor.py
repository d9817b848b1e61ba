"""`clipdre doctor`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdre.cli import score_options as take
from clipdre.cli.common_options import Address, Engines, Json, OneCpu
from clipdre.cli.read_options import IMAGE_KEY, read_config
from clipdre.cli.terminal import echo_json, given_options
from clipdre.config import EngineConfig, EngineName, ReadConfig
from clipdre.cpus import usable_cpus
from clipdre.only_with import WITH_RAY, Pairing, check, without_ray
from clipdre.words import count

if TYPE_CHECKING:
    from clipdre.doctor import Diagnosis

EXAMPLE = "Example:  clipdre doctor pool && clipdre score pool -o scores"
SHOWN = 200
PAIRINGS: tuple[Pairing, ...] = (*WITH_RAY, without_ray("workers"))


def doctor(
    context: typer.Context,
    shards: Annotated[
        list[str],
        typer.Argument(
            help="Folders (with their subfolders), tars, globs (** for any depth), {00..99} "
            "patterns, URLs, or '-' for a list on stdin.",
            metavar="SHARDS",
        ),
    ],
    image_key: take.ImageKey = IMAGE_KEY,
    text_key: take.TextKey = None,
    max_member_bytes: take.MaxMemberBytes = ReadConfig.max_member_bytes,
    max_json_bytes: take.MaxJsonBytes = ReadConfig.max_json_bytes,
    max_caption_bytes: take.MaxCaptionBytes = ReadConfig.max_caption_bytes,
    max_pixels: take.MaxPixels = ReadConfig.max_pixels,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode",
            help="Decode images to the last pixel, which is slower but finds everything.",
        ),
    ] = False,
    workers: take.Workers = None,
    engine: Engines = EngineName.LOCAL,
    address: Address = None,
    cpus_per_worker: OneCpu = None,
    json: Json = False,
) -> None:
    """Check shards before you pay for a GPU.

    Reads shards as 'clipdre score' does, but loads no model. Exits with 1 if samples would be lost.
    """
    from clipdre.doctor import diagnose
    from clipdre.formats.tars.places import expand_shards

    check(given_options(context), PAIRINGS)
    config = read_config(
        image_key,
        text_key or ReadConfig.caption_suffix,
        max_member_bytes,
        max_json_bytes,
        max_caption_bytes,
        max_pixels,
    )
    urls = expand_shards(shards, sys.stdin)
    parallel = workers or usable_cpus()
    machines = EngineConfig(engine, address, cpus_per_worker)
    found = diagnose(urls, config, decode=decode, workers=parallel, processes=True, engine=machines)
    if json:
        echo_json(_machine(found))
    else:
        _print(found, decode=decode)
    raise typer.Exit(code=int(found.loses))


def _machine(found: Diagnosis) -> dict[str, Any]:
    from dataclasses import asdict

    from clipdre.doctor import ADVICE

    findings = [
        {"reason": name, **asdict(finding), "clipdre": ADVICE[name][0], "cure": ADVICE[name][1]}
        for name, finding in found.findings.items()
    ]
    return {**asdict(found), "findings": findings}


def _print(found: Diagnosis, *, decode: bool) -> None:
    from clipdre.cli.terminal import as_options, note, table
    from clipdre.doctor import ADVICE

    title = (
        f"{count(found.samples, 'sample')} in {count(found.shards, 'shard')}, {found.good:,} good"
    )
    rows = [
        (name, "yes" if f.lost else "no", f"{f.samples:,}", f"{f.shards:,}")
        for name, f in found.findings.items()
    ]
    if rows:
        table(title, ("finding", "lost", "samples", "shards"), rows, words=2, stdout=True)
    else:
        note(title, stdout=True)
    for name, finding in found.findings.items():
        does, cure = ADVICE[name]
        note(f"{name}: {does}", stdout=True)
        note(as_options(f"    cure: {cure}", None), stdout=True)
        for example in finding.examples:
            where = f"{example.shard}/{example.key}" if example.key else example.shard
            message = example.message[:SHOWN]
            note(f"    e.g. {where} at byte {example.offset}: {message}", stdout=True)
    if not decode:
        unread = "only the headers of images were checked; --decode reads them to the last pixel"
        note(unread, stdout=True)
    if not found.loses:
        if "no_end_marker" in found.findings:
            cut_off = "nothing would be lost of what the shards hold, but some may be cut off"
            note(cut_off, stdout=True)
        else:
            note("nothing would be lost", stdout=True)
