"""Look at score folders in a browser or a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from clipdre.api.arguments import Places, engine_config, listed
from clipdre.api.scores import Scores
from clipdre.config import EngineName, LookConfig
from clipdre.formats.tars.places import expand_shards
from clipdre.looking.look import collect
from clipdre.looking.page import Page, render
from clipdre.selecting.preview import by_name
from clipdre.selecting.select import Selection


def look(
    scores: Scores,
    *,
    selections: Selection | Mapping[str, Selection] | Sequence[Selection] = (),
    output: str | Path | None = None,
    columns: Sequence[str] = (),
    thumbnails: int = LookConfig.thumbnails,
    points: int = LookConfig.points,
    blur_by: str | None = None,
    shards: Places | None = None,
    overwrite: bool = False,
    engine: EngineName | str = EngineName.LOCAL,
    address: str | None = None,
    cpus_per_worker: int | None = None,
) -> Page:
    """Return a page that shows what a pool holds and what selections keep; notebooks show it.

    Parameters
    ----------
    scores : Scores
    selections : Selection, or mapping or sequence of Selection
        At most four, by name; in a sequence each has the name of its rule, such as a recipe's.
    output : path, optional
        File to write the page to; an earlier page is replaced.
    columns : sequence of str
        Columns to show right after the main scores.
    thumbnails, points : int
        Largest number of pairs shown with their image, and drawn where all would be too many.
    blur_by : str, optional
        SQL condition; images of pairs that fulfil it are blurred.
    shards : path or sequence of paths, optional
        Tars to take images from, if they have moved.
    overwrite : bool
        Replace `output` even if it is not such a page.
    engine, address, cpus_per_worker
        As for `clipdre.score`, for reading images; by default each CPU of a Ray cluster is a
        worker.

    Raises
    ------
    ClipdreError
        If a column or condition cannot be used, selections are of other scores, or `output` cannot
        be written.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> best = clipdre.select(scores, by="log_ratio", top=0.25)
    >>> page = clipdre.look(scores, selections=best, output="demo/page.html")
    >>> page.title
    'clipdre look: demo/scores-clean'
    """
    page = render(
        collect(
            scores.query(),
            by_name([selections] if isinstance(selections, Selection) else selections),
            LookConfig(
                tuple(columns),
                points,
                thumbnails,
                blur_by=blur_by,
                engine=engine_config(engine, address, cpus_per_worker),
            ),
            None if shards is None else expand_shards(listed(shards)),
        )
    )
    if output is not None:
        page.save(output, overwrite=overwrite)
    return page
