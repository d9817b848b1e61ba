"""Write a page: one HTML file that needs no server and no network."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clipdre.errors import OutputError
from clipdre.formats.files.storage import committed
from clipdre.looking.content import content, tables
from clipdre.looking.files import MARK, check_replaceable
from clipdre.looking.look import View
from clipdre.looking.text import plain

ASSETS = "assets"
# The engine that makes the bundle takes 120 MB, which a process of its own gives back.
BUNDLE = "import sys, vl_convert; sys.stdout.buffer.write(vl_convert.javascript_bundle().encode())"
SCRIPTS = ("charts.js", "cards.js", "page.js")
# Height of a page within a notebook.
NOTEBOOK_PIXELS = 900


@dataclass(frozen=True, repr=False)
class Page:
    """A page about a score folder; notebooks show it.

    Attributes
    ----------
    title : str
    html : str
    """

    title: str
    html: str

    def __repr__(self) -> str:
        return f"Page({self.title!r}, {len(self.html.encode()) / 1e6:.1f} MB)"

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{escape(self.html)}" title="{escape(self.title)}" '
            f'style="width:100%;height:{NOTEBOOK_PIXELS}px;border:0"></iframe>'
        )

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the page to a file; an earlier page is replaced.

        Raises
        ------
        OutputError
            If the file exists and is not such a page (and not `overwrite`), or cannot be written.
        """
        path = Path(path)
        if not overwrite:
            check_replaceable(path)
        try:
            with committed(path) as temporary:
                temporary.write_text(self.html, encoding="utf-8")
        except OSError as error:
            problem = f"cannot write {path} ({error.strerror})"
            raise OutputError(problem, "choose another place") from error


def render(view: View) -> Page:
    """Return a view as a page.

    Captions come from strangers: the template escapes all text, scripts set text and never markup,
    and the page's own policy allows no script but those that are in it by their digests, and no
    request at all.
    """
    scripts = _scripts()
    title = f"clipdre look: {plain(view.query.folder.store.name)}"
    environment = Environment(
        loader=PackageLoader("clipdre.looking", ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = "{:,}".format
    html = environment.get_template("page.html.j2").render(
        title=title,
        policy=_policy(scripts),
        style=Markup(_asset("page.css")),  # noqa: S704 (our own file)
        scripts=[Markup(script) for script in scripts],  # noqa: S704 (our own files)
        data=Markup(_embedded(content(view))),  # noqa: S704 (escaped for scripts)
        **tables(view),
    )
    # Paths and messages may have bytes that are not UTF-8.
    return Page(title, (MARK + html).encode("utf-8", "replace").decode())


@cache
def _scripts() -> tuple[str, ...]:
    """Return Vega with its parts, and our own scripts."""
    command = [sys.executable, "-c", BUNDLE]
    done = subprocess.run(command, capture_output=True, check=True, encoding="utf-8")  # noqa: S603
    library = done.stdout.replace("</script", "<\\/script")
    return library, "\n".join(map(_asset, SCRIPTS))


def _asset(name: str) -> str:
    return (resources.files(__package__) / ASSETS / name).read_text(encoding="utf-8")


def _policy(scripts: tuple[str, ...]) -> str:
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _embedded(value: Any) -> str:
    """Return JSON that cannot end the script element it is in."""
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
    )
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(type(value).__name__)
