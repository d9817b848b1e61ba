"""What `clipdre score --dry-run` reports."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from tqdm import tqdm

from clipdre.cli.summary import describe_model
from clipdre.cli.terminal import echo_json, note, table
from clipdre.words import count, size

if TYPE_CHECKING:
    from clipdre.pipelines.trial import Trial

CURES = {
    "decoding": "give it more cores (--workers), or try --decode fast",
    "encoding": "use more or faster devices, or a smaller model",
}


def show_trial(found: Trial, *, as_json: bool) -> None:
    """Print what the tried pairs took, and what the whole pool would take."""
    if as_json:
        from clipdre.formats.folders.records import builtins

        derived = {"rate": found.rate, "limited_by": found.limited_by, "seconds": found.seconds}
        echo_json({**asdict(found), "model": builtins(found.model), **derived})
        return
    failed = ", ".join(f"{reason} {n:,}" for reason, n in found.failures.items())
    table(
        f"Tried: {count(found.rows, 'pair')} from {count(found.shards_tried, 'shard')}"
        + (f"; {sum(found.failures.values()):,} samples failed ({failed})" if failed else ""),
        ("step", "with", "pairs/s"),
        [
            ("reading and decoding", count(found.workers, "worker"), f"{found.decoding:,.0f}"),
            ("encoding", ", ".join(found.devices), f"{found.encoding:,.0f}"),
            ("both", "", f"{found.rate:,.0f}"),
        ],
        words=2,
        stdout=True,
    )
    for line in (
        f"model: {describe_model(found.model)}",
        f"limited by {found.limited_by}: {CURES[found.limited_by]}",
        f"the pool: about {count(found.pairs, 'pair')} in {count(found.shards, 'shard')}, "
        f"{size(found.nbytes)}",
        f"time: about {tqdm.format_interval(found.seconds)} to encode it; the estimates follow",
        f"disk: about {size(found.disk)}",
        "nothing was written",
    ):
        note(line, stdout=True)
