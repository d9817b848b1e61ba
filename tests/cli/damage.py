"""A small world of files that commands read, and what can be wrong with each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipdre.formats.folders.folder import ScoreFolder
from clipdre.pipelines.measure import measure
from clipdre.scorers.prompt_weight import PromptWeight
from clipdre.truth.pool import write_pool
from tests.helpers import tiny_score

Damage = Callable[[], object]
MANIFEST, RECIPE = Path("scores/manifest.json"), Path("mine.toml")
SCORES = Path("scores/scores/00000.parquet")
IMAGES = Path("scores/embeddings/img_emb/img_emb_0.npy")
REFERENCE = Path("scores/reference")
GROUPS = Path("scores/columns/near-duplicates")
ROWS = 6


def make_world(folder: Path) -> None:
    """Write a pool, its scores with a measured column, and lists, recipes and tables."""
    folder.mkdir()
    with chdir(folder):  # paths in the manifest are relative, so that the world can be copied
        write_pool(Path("pool"), 2 * ROWS, seed=5, noise={}, shard_size=ROWS)
        manifest = tiny_score(Path("pool"), Path("scores"))
        measure(ScoreFolder(Path("scores")), manifest, PromptWeight(prompt=("a circle",)))
        table = pq.read_table(SCORES)
        pq.write_table(table.select(["key_hash", "width"]), "joined.parquet")
        Path("keys.txt").write_text("\n".join(table["key"].to_pylist()) + "\n")
        RECIPE.write_text(recipe("by = 'log_ratio'\ntop = 5"))


def recipe(step: str) -> str:
    """A recipe of one step."""
    return f"title = 't'\nsource = 's'\n[[steps]]\n{step}\n"


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replaced(path: Path, write: Callable[[Path], object]) -> Damage:
    """Put something else in the place of a file or folder."""

    def damage() -> None:
        remove(path)
        write(path)

    return damage


# What else may be in the place of a file.
WAYS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a circle of links": lambda path: path.symlink_to(path.name),
    "garbage": lambda path: path.write_bytes(b"\x00\xffgarbage" * 99),
}
# Files, and the commands that read each.
FILES: dict[Path, str] = {
    MANIFEST: "info look filter emit measure reference resume",
    SCORES: "info look filter select emit measure reference resume",
    Path("scores/scores"): "info filter resume",
    Path("scores"): "info filter emit measure reference resume",
    Path("scores/failures/00000.parquet"): "info look resume",
    Path("scores/embeddings/metadata/metadata_0.parquet"): "measure reference resume",
    IMAGES: "look measure reference resume",
    REFERENCE / "reference.json": "reference resume",
    REFERENCE / "moments.npz": "reference resume",
    REFERENCE / "pool_image.npy": "reference resume",
    REFERENCE / "alike.npz": "reference resume",
    GROUPS / "record.json": "info select measure",
    GROUPS / "00000.parquet": "info look select measure",
    Path("scores/columns/prompt-weight/record.json"): "info filter measure",
    Path("scores/columns/prompt-weight/00000.parquet"): "info filter measure",
    Path("pool/00000.tar"): "doctor filter look score",
    Path("pool"): "doctor filter select score",
    RECIPE: "recipes select",
    Path("joined.parquet"): "select",
    Path("out"): "filter look score demo",
}


def in_manifest(*place: str | int, value: object) -> Damage:
    """Change a field of the manifest, and of the reference's own record."""

    def damage() -> None:
        whole = json.loads(MANIFEST.read_text())
        *outer, last = place
        part = whole
        for name in outer:
            part = part[name]
        part[last] = value
        MANIFEST.write_text(json.dumps(whole))
        (REFERENCE / "reference.json").write_text(json.dumps(whole["reference"]))

    return damage


VALUES: dict[tuple[str | int, ...], tuple[object, ...]] = {
    ("shards",): ([], None, 5),
    ("settings",): ({}, {"read": {"image_suffixes": 5}}, {"read": {}, "estimate": {"method": 5}}),
    ("reference",): (None, {}),
    ("complete",): ("no",),
    ("schema_version",): (1, 3, "2", [2]),
    ("model", "embedding_dim"): (0, -3, 9),
    ("model", "logit_scale"): (1e999, "100"),
    ("model", "precision"): ("x",),
    ("model", "fingerprint"): ([1e308] * 5,),
    ("reference", "method"): ("x", "stratified", "sample"),
    ("reference", "pairs"): (0, 1, 10**9, -1),
    ("reference", "near"): ({"image": {"cells": 0, "margin": -1, "mass": 7, "share": -1}},),
    ("shards", 0, "rows"): (0, 1, 10**6, -5, 2**63, "6"),
    ("shards", 0, "failures"): ({"\x1b[2J": 2**40}, {"x": -1}),
    ("shards", 0, "nbytes"): (-1, 2**62),
    ("shards", 0, "name"): ("../../../etc/passwd", "/etc/passwd", "a\0b", "a" * 300, "", "00001"),
    ("shards", 0, "url"): (
        "http://127.0.0.1:9/a.tar",
        "http://[::1",
        "file:///etc/passwd",
        "reference://a",
        "simplecache::http://127.0.0.1:9/a.tar",
        "nosuch://a",
        "/dev/zero",
        "a\0b",
        "\udcff",
        "",
    ),
}


def in_record(**fields: object) -> Damage:
    """Change fields of the record of near-duplicates."""
    path = GROUPS / "record.json"
    return lambda: path.write_text(json.dumps(json.loads(path.read_text()) | fields))


FIGURES = ("groups", "grouped", "alike", "mean_log_size")
RECORDS: dict[str, dict[str, object]] = {
    "no figures": {"figures": {}},
    "a negative figure": {"figures": {"grouped": -1, "groups": 1e300}},
    "no settings": {"settings": {}},
    "a setting of another type": {"settings": {"alike": [1]}},
    "settings for figures": {"figures": {}, "settings": dict.fromkeys(FIGURES, "inf")},
    "no number": {"figures": {}, "settings": dict.fromkeys(FIGURES, "nan")},
    "no columns": {"columns": []},
    "other columns": {"columns": [{"name": "key", "unit": "", "meaning": "", "better": None}]},
    "other rows": {"rows": 5},
    "another version": {"version": 99},
}


def column(name: str, value: object, kind: pa.DataType | None = None) -> Damage:
    """Set a column of the first score file to one value; without a kind, to its own type."""

    def damage() -> None:
        table = pq.read_table(SCORES)
        at = table.schema.get_field_index(name)
        values = pa.array([value] * ROWS, kind or table.schema.field(name).type)
        pq.write_table(table.set_column(at, name, values), SCORES)

    return damage


def rewritten(change: Callable[[pa.Table], pa.Table]) -> Damage:
    """Change the table in the first score file."""
    return lambda: pq.write_table(change(pq.read_table(SCORES)), SCORES)


COLUMNS: dict[str, Damage] = {
    **{f"nbytes {n}": column("nbytes", n) for n in (0, -1, 2**62)},
    **{f"offset {n}": column("offset", n) for n in (None, 0, -1, 2**62)},
    **{f"key {k!r:.9}": column("key", k) for k in (None, "", "../../x", "a\0b", "k" * 9999)},
    "key_hash null": column("key_hash", None),
    "log_ratio null": column("log_ratio", None),
    "log_ratio inf": column("log_ratio", float("inf")),
    "kl_text NaN": column("kl_text", float("nan")),
    "shard null": column("shard", None),
    **{f"{n} is text": column(n, "x", pa.string()) for n in ("offset", "nbytes", "key_hash")},
    **{f"{n} is a list": column(n, [1], pa.list_(pa.int64())) for n in ("key", "log_ratio")},
    **{
        f"no {n}": rewritten(lambda t, n=n: t.drop_columns([n]))
        for n in ("key", "nbytes", "kl_text")
    },
    "no rows": rewritten(lambda table: table.slice(0, 0)),
    "twice the rows": rewritten(lambda table: pa.concat_tables([table, table])),
    "in reverse": rewritten(lambda table: table.take(pa.array(range(ROWS)[::-1]))),
    "odd names": rewritten(
        lambda table: (
            table.append_column('we"ird\x1b', table["key"])
            .append_column("FILE_INDEX", table["key"])
            .append_column("", table["key"])
        )
    ),
}
ARRAYS = {
    "other shape": np.zeros((ROWS, 5), np.float16),
    "fewer rows": np.zeros((2, 128), np.float16),
    "flat": np.zeros(ROWS, np.float16),
    "text": np.full((ROWS, 128), "a"),
    "NaN": np.full((ROWS, 128), np.nan, np.float16),
}
RECIPES = {
    "no toml": "x = [",
    "deep": "x = " + "[" * 20_000,
    "expects a number": "expects = 5\n" + recipe("by = 'log_ratio'\ntop = 5"),
    "cap is text": recipe("balance = 'caption'\ncap = 'abc'"),
    "many bins": recipe(f"by = 'log_ratio'\ntop = 5\nuniform = true\nbins = {10**11}"),
    "a parameter": recipe("by = '$1'\ntop = 5"),
    "a large amount": recipe(f"by = 'log_ratio'\ntop = '{'9' * 400}'"),
    "a large budget": "title = 't'\nsource = 's'\n[options]\nbudget = 0.5\n[[steps]]\n"
    f"by = 'log_ratio'\ntop = '{'9' * 400} budget'",
    "many steps": "title = 't'\nsource = 's'\n" + "[[steps]]\nwhere = 'true'\n" * 1000,
    "deep SQL": recipe(f"where = '{'(' * 20_000}'"),
    "NUL": recipe('where = "a\\u0000b"'),
    "a bomb": recipe("where = 'length(lpad(caption, 2000000000)) > 1'"),
}
