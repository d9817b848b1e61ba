"""The worked examples of docs/contributing.md run as they are printed."""

import io
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from clipdre.core.columns import Column
from clipdre.core.modality import Modality
from clipdre.core.scores import Score
from clipdre.emitting.subset import Subset
from clipdre.engines.base import Advance, Item, Result, Work
from tests.helpers import chosen, read_scores

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/contributing.md").read_text(), re.DOTALL)


def example(first_words):
    """The block that begins with some words, with what it defines."""
    (code,) = [block for block in BLOCKS if block.startswith(first_words)]
    namespace = dict(globals())
    exec(code, namespace)
    return namespace


def test_every_block_is_tried_here():
    starts = ["Score(", '"""A scorer', "def write_tsv", "@dataclass", "def count"]
    assert len(BLOCKS) == len(starts)
    for block, start in zip(BLOCKS, starts, strict=True):
        assert block.startswith(start)


def test_the_scorer_is_the_example_package():
    path = ROOT / "examples" / "caption-length" / "clipdre_caption_length.py"
    assert path.read_text() in BLOCKS


def test_the_column_computes():
    score = eval(BLOCKS[0])

    class Pairs:
        def log_ratio_of(self, modality):
            return (
                torch.tensor([1.0, 2.0]) if modality is Modality.IMAGE else torch.tensor([3.0, 0.5])
            )

    assert score.formula(Pairs()).tolist() == [2.0, 1.5]
    assert isinstance(score, Score)
    assert isinstance(score.column, Column)


def test_the_format_writes(scored):
    subset = Subset(chosen(scored, by="log_ratio", top=5))
    out = io.BytesIO()
    example("def write_tsv")["write_tsv"](subset, out)
    lines = [line.split("\t") for line in out.getvalue().decode().splitlines()]
    table = read_scores(*scored)
    best = np.sort(np.argsort(-table["log_ratio"].to_numpy(), kind="stable")[:5])
    assert lines == [[table["key"][n].as_py(), table["caption"][n].as_py()] for n in best.tolist()]


def test_the_engine_runs():
    class Doubling:
        def start(self, device, advance):
            return lambda item: 2 * item

    engine = example("@dataclass")["Threads"]()
    assert sorted(engine.run(Doubling(), [5, 6, 7], lambda *_: None)) == [(0, 10), (1, 12), (2, 14)]


def test_the_command_prints(scored):
    app = typer.Typer()
    app.command()(example("def count")["count"])
    found = CliRunner().invoke(app, [str(scored[0])])
    assert found.output == "300\n"


USED = (Annotated, BinaryIO, Iterable, Iterator, ThreadPoolExecutor, dataclass, pytest)
USED += (Advance, Item, Result, Work)
