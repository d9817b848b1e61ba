"""A dry run on stdout, as tables or as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from clipdre.cli.terminal import echo_json, note, table
from clipdre.words import count

if TYPE_CHECKING:
    from clipdre.selecting.preview import Comparison, Preview
    from clipdre.selecting.select import Selection

SHOWN_SHARDS = 5
SHOWN_CAPTION = 60


def show(selections: Sequence[Selection], *, as_json: bool) -> None:
    """Print what each selection keeps, and how several differ."""
    from clipdre.selecting.preview import compare, preview

    previews = [preview(selection) for selection in selections]
    comparison = compare(selections) if len(selections) > 1 else None
    if as_json:
        echo_json(_machine(previews, comparison))
        return
    for found in previews:
        _print_preview(found)
    if comparison is not None:
        print_overlaps({found.name: found.kept for found in previews}, comparison)


def _machine(previews: Sequence[Preview], comparison: Comparison | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "selections": [{**asdict(p), "mean_log_ratio": p.mean_log_ratio} for p in previews]
    }
    if comparison is not None:
        found |= overlaps(comparison)
    return found


def overlaps(found: Comparison) -> dict[str, Any]:
    """Return what selections share, for JSON."""
    return {
        "jaccard": [{"a": a, "b": b, "jaccard": share} for (a, b), share in found.jaccard.items()],
        "only": {
            name: {"rows": rows, "captions": captions}
            for name, (rows, captions) in found.only.items()
        },
    }


def _print_preview(found: Preview) -> None:
    name = f"{found.name}: " if found.name else ""
    share = found.kept / max(1, found.pool)
    note(
        f"{name}would keep {found.kept:,} of {count(found.pool, 'pair')} ({share:.1%})",
        stdout=True,
    )
    table(
        f"{name}what each step keeps",
        ("step", "before", "after where", "no value", "asked", "kept", "cut"),
        [
            (
                str(s.step),
                *(f"{n:,}" for n in (s.before, s.after_where, s.unranked, s.asked, s.kept)),
                s.cut.rpartition(" ")[2],
            )
            for s in found.steps
        ],
        stdout=True,
    )
    table(
        f"{name}means",
        ("score", "pool", "kept"),
        [
            (score, *("-" if mean is None else f"{mean:.4g}" for mean in means))
            for score, means in found.means.items()
        ],
        stdout=True,
    )
    shown, label = found.shards, "kept of each shard"
    if len(shown) > 2 * SHOWN_SHARDS:
        ordered = sorted(shown, key=lambda shard: (shard[2] / max(1, shard[1]), shard[0]))
        shown = ordered[:SHOWN_SHARDS] + ordered[-SHOWN_SHARDS:]
        label = f"kept of each shard: least and most of {len(found.shards):,}"
    table(
        f"{name}{label}",
        ("shard", "rows", "kept", "share"),
        [(n, f"{rows:,}", f"{kept:,}", f"{kept / max(1, rows):.1%}") for n, rows, kept in shown],
        stdout=True,
    )
    before, after = found.mean_log_ratio
    if before is not None and after is not None:
        note(
            f"{name}mean log ratio {before:.3f} nats in the pool, {after:.3f} in the subset",
            stdout=True,
        )
    note(
        f"{name}repeated among the kept: {found.duplicates['caption']:.1%} of captions, "
        f"{found.duplicates['uid']:.1%} of uids",
        stdout=True,
    )


def print_overlaps(sizes: Mapping[str, int], found: Comparison) -> None:
    """Print what selections share; `sizes` are their numbers of rows."""

    def overlap(a: str, b: str) -> str:
        share = found.jaccard.get((a, b), found.jaccard.get((b, a), 1.0))
        return f"{share:.2f}"

    table(
        "overlap: rows that both keep, as a share of those that either keeps (Jaccard)",
        ("recipe", "kept", *found.names),
        [(a, f"{sizes[a]:,}", *(overlap(a, b) for b in found.names)) for a in found.names],
        stdout=True,
    )
    rows = []
    for name, (number, captions) in found.only.items():
        for n, caption in enumerate(captions or [""]):
            rows.append(
                (caption[:SHOWN_CAPTION], name if not n else "", f"{number:,}" if not n else "")
            )
    table("kept by one recipe alone", ("example", "recipe", "rows"), rows, words=2, stdout=True)
