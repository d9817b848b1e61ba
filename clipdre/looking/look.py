"""Collect what a page shows of a score folder, and of selections from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from clipdre.config import LookConfig
from clipdre.core.modality import Modality
from clipdre.engines.open import open_cpus
from clipdre.errors import ScoresError, UsageError
from clipdre.formats.files.storage import real
from clipdre.looking.axes import axes_of, axis_rows
from clipdre.looking.counterparts import Model, Nearest
from clipdre.looking.edges import Axis, Histogram, count_between, edges_of, kept_mask
from clipdre.looking.failures import Failed, failed
from clipdre.looking.galleries import Gallery, evenly, galleries, spread
from clipdre.looking.languages import Language, languages
from clipdre.looking.ngrams import Ends, Words
from clipdre.looking.points import Places, Points, sample_points
from clipdre.looking.samples import HERE, Details, details, fulfilling, thumbnails
from clipdre.reporting.summary import Summary, summary_of
from clipdre.selecting.select import Selection
from clipdre.sql.expressions import Expression, Kind, private
from clipdre.sql.query import ScoreQuery
from clipdre.sql.row_set import RowSet, seeded_uniform

MOST_SELECTIONS = 4
# Counterparts of the shown pairs that are shown with their image, and its longest side.
MOST_PEERS, PEER_SIDE = 300, 96
# Scores whose words are listed.
WORDS_BY = ("kl_text", "log_ratio")
MATRIX = 10
KEPT_BY = "kept by "

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Counterparts:
    """What the model knows about the shown pairs.

    Attributes
    ----------
    nearest : mapping of Modality to Nearest
        The likeliest counterparts of each sample, given its image or its caption; empty if
        `problem` says why.
    searched : int
        Number of pairs among which they were looked for.
    matrix_places : int64 array of shape (m,)
        Pairs from a low to a high log ratio.
    matrix : float64 array of shape (m, m)
        Log ratios of their images (rows) with their captions (columns), in nats.
    """

    nearest: Mapping[Modality, Nearest]
    searched: int
    matrix_places: Places
    matrix: npt.NDArray[np.float64]
    problem: str = ""


@dataclass(frozen=True)
class View:
    """What a page shows.

    Attributes
    ----------
    query : ScoreQuery
    summary : Summary
    failures : list of Failed
    selections : mapping of str to Selection
        By name.
    histograms : list of Histogram
        One per axis.
    points : Points
    kept : sequence of bool arrays of shape (points,)
        Whether each selection keeps a point.
    galleries : list of Gallery
    samples : int64 array
        Places of the pairs that are shown with all that is known of them.
    counterparts : Counterparts
        Of the samples.
    rows : Details
        Samples and counterparts.
    images : dict of int to str
        Places to thumbnails, as data URLs.
    blurred : bool array of shape (rows,)
    blurring : bool
        Whether images are blurred by a condition.
    words : dict of str to Ends
        Scores, and names of selections, to the words that go with them.
    languages : list of Language
    overlaps : dict of (str, str) to (int, int)
        Two selections to the rows that both keep, and that either keeps.
    problem : str
        Why thumbnails are missing; empty if none is.
    """

    query: ScoreQuery
    summary: Summary
    failures: list[Failed]
    selections: Mapping[str, Selection]
    histograms: list[Histogram]
    points: Points
    kept: Sequence[Mask]
    galleries: list[Gallery]
    samples: Places
    counterparts: Counterparts
    rows: Details
    images: dict[int, str]
    blurred: Mask
    blurring: bool
    words: dict[str, Ends]
    languages: list[Language]
    overlaps: dict[tuple[str, str], tuple[int, int]]
    problem: str


def collect(
    query: ScoreQuery,
    selections: Mapping[str, Selection],
    config: LookConfig,
    shards: Sequence[str] | None = None,
) -> View:
    """Collect what a page shows.

    Parameters
    ----------
    selections : mapping of str to Selection
        By name, of the same score folder; at most `MOST_SELECTIONS`.
    shards : sequence of str, optional
        Tars to take images from, if they have moved.

    Raises
    ------
    UsageError
        If there are too many selections, or they are of another score folder.
    SelectionError
        If a column or condition of `config` cannot be used.
    """
    if len(selections) > MOST_SELECTIONS:
        raise UsageError(f"a page shows at most {MOST_SELECTIONS} selections", "drop some of them")
    if {real(own.query.folder.path) for own in selections.values()} - {real(query.folder.path)}:
        raise UsageError("a selection is of other scores", "select from the same score folder")
    axes = axes_of(query, config.columns)
    blurring = _blurring(query, config.blur_by)
    pool = axis_rows(query, axes)
    points = sample_points(pool, axes, config.points)
    masks = {name: kept_mask(selection) for name, selection in selections.items()}
    kept = {name: mask[points.places] for name, mask in masks.items()}
    middle = np.sort(evenly(points.places, points.values[0], MATRIX))
    selected = {name: (selection, masks[name]) for name, selection in selections.items()}
    listed = list(galleries(pool, axes, points, selected))
    found, samples = _chosen(middle, listed, spread(axes, points), config.thumbnails)
    counterparts = _counterparts(query, samples, middle)
    peers = _peers(counterparts)
    every = np.unique(np.concatenate([samples, counterparts.matrix_places, *peers.values()]))
    # Without thumbnails, what is shown for other reasons has no image either.
    most = MOST_PEERS if config.thumbnails else 0
    small = np.setdiff1d(peers[Modality.IMAGE][:most], samples)
    summary = summary_of(query)
    engine = open_cpus(config.engine, HERE)
    large = thumbnails(query, samples if most else samples[:0], config.side, shards, engine)
    return View(
        query=query,
        summary=summary,
        failures=failed(query.manifest, summary.examples, config.side),
        selections=selections,
        histograms=count_between(pool, edges_of_axes(axes, points), list(masks.values())),
        points=points,
        kept=list(kept.values()),
        galleries=found,
        samples=samples,
        counterparts=counterparts,
        rows=details(pool, axes, every),
        images={**thumbnails(query, small, PEER_SIDE, shards, engine).urls, **large.urls},
        blurred=np.zeros(len(every), np.bool_) if blurring is None else fulfilling(blurring, every),
        blurring=blurring is not None,
        words=_words(axes, points, kept),
        languages=languages(query, selections),
        overlaps={
            (a, b): (int((masks[a] & masks[b]).sum()), int((masks[a] | masks[b]).sum()))
            for a, b in combinations(masks, 2)
        },
        problem=large.problem,
    )


def _blurring(query: ScoreQuery, condition: str | None) -> RowSet | None:
    """Return the pool with a column for the condition."""
    if condition is None:
        return None
    chance = seeded_uniform(0, "blur")
    expression = Expression(private("blurred"), "`blur_by`", condition, Kind.CONDITION, chance)
    return RowSet.of_pool(query, [expression])


def edges_of_axes(axes: Sequence[Axis], points: Points) -> dict[Axis, tuple[str, ...]]:
    """Return where a line may be drawn through each axis."""
    return {
        axis: edges_of(values[np.isfinite(values)], whole=axis.whole)
        for axis, values in zip(axes, points.values, strict=True)
    }


def _chosen(
    first: Places, listed: Sequence[Gallery], last: Places, most: int
) -> tuple[list[Gallery], Places]:
    """Return galleries of `most` pairs together, `first` included, and all pairs to show."""
    chosen, found = set(first.tolist()), []
    for gallery in listed:
        shown = []
        for place in gallery.places.tolist():
            if place in chosen or len(chosen) < most:
                chosen.add(place)
                shown.append(place)
        if shown:
            found.append(gallery.of(shown))
    rest = [place for place in dict.fromkeys(last.tolist()) if place not in chosen]
    chosen.update(rest[: max(0, most - len(chosen))])
    return found, np.array(sorted(chosen), np.int64)


def _counterparts(query: ScoreQuery, samples: Places, middle: Places) -> Counterparts:
    try:
        model = Model(query)
        matrix = model.log_ratios(middle)
        order = np.argsort(np.diag(matrix), kind="stable")
        return Counterparts(
            nearest={modality: model.nearest(samples, modality) for modality in Modality},
            searched=model.searched,
            matrix_places=middle[order],
            matrix=matrix[np.ix_(order, order)],
        )
    except ScoresError as error:
        none = np.empty(0, np.int64)
        return Counterparts({}, 0, none, np.empty((0, 0)), str(error))


def _peers(counterparts: Counterparts) -> dict[Modality, Places]:
    """Return places of counterparts of each modality, the most frequent first."""
    found = {}
    for modality in Modality:
        nearest = counterparts.nearest.get(modality.other)
        places = np.empty(0, np.int64) if nearest is None else nearest.places.ravel()
        distinct, counts = np.unique(places, return_counts=True)
        found[modality] = distinct[np.argsort(-counts, kind="stable")]
    return found


def _words(axes: Sequence[Axis], points: Points, kept: Mapping[str, Mask]) -> dict[str, Ends]:
    words = Words(points.captions)
    by_label = {axis.label: values for axis, values in zip(axes, points.values, strict=True)}
    found = {name: words.by_score(by_label[name]) for name in WORDS_BY if name in by_label}
    found |= {f"{KEPT_BY}{name}": words.by_kept(mask) for name, mask in kept.items()}
    return {name: ends for name, ends in found.items() if ends.high or ends.low}
