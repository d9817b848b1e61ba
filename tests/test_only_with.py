from enum import StrEnum

import pytest

from clipdre.errors import UsageError
from clipdre.only_with import NotWith, OnlyWith, check


class Format(StrEnum):
    TAR = "tar"
    KEYS = "keys"


TABLE = (
    OnlyWith("bins", ("uniform",), because="which spreads rows over bins"),
    OnlyWith("by", ("top", "sample")),
    OnlyWith("shuffle", ("format",), value="tar"),
    NotWith("model", ("embeddings",), because="which come from a model already"),
    NotWith("shuffle", ("output",), value="-"),
)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"bins": 5, "uniform": True},
        {"bins": 0, "uniform": True},
        {"by": "x", "sample": 3},
        {"by": "x", "top": 0},
        {"shuffle": True, "format": "tar"},
        {"shuffle": True, "format": Format.TAR, "output": "kept"},
        {"model": "ViT-B-32"},
        {"model": None, "embeddings": "folder"},
        {"model": "ViT-B-32", "embeddings": None},
        {"bins": None, "by": None, "shuffle": False, "format": "keys"},
        {"bins": (), "by": [], "model": {}, "embeddings": "folder"},
        {"unknown": 1},
    ],
)
def test_accepts_options_that_go_together(given):
    check(given, TABLE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"bins": 5},
            "`bins` can only be used with `uniform`, which spreads rows over bins: "
            "add `uniform`, or drop `bins`",
        ),
        (
            {"bins": 0, "uniform": False},
            "`bins` can only be used with `uniform`, which spreads rows over bins: "
            "add `uniform`, or drop `bins`",
        ),
        (
            {"by": ""},
            "`by` can only be used with `top` or `sample`: add one of them, or drop `by`",
        ),
        (
            {"shuffle": True, "format": Format.KEYS},
            "`shuffle` can only be used with `format` tar: set `format` to tar, or drop `shuffle`",
        ),
        (
            {"shuffle": True},
            "`shuffle` can only be used with `format` tar: set `format` to tar, or drop `shuffle`",
        ),
        (
            {"model": "ViT-B-32", "embeddings": "folder"},
            "`model` cannot be used with `embeddings`, which come from a model already: "
            "drop `model` or `embeddings`",
        ),
        (
            {"shuffle": True, "format": "tar", "output": "-"},
            "`shuffle` cannot be used with `output` -: drop `shuffle`, or change `output`",
        ),
    ],
)
def test_refuses_options_that_would_have_no_effect(given, message):
    with pytest.raises(UsageError) as caught:
        check(given, TABLE)
    assert str(caught.value) == message


def test_lists_all_needed_options():
    with pytest.raises(UsageError, match="with `a`, `b` or `c`: add one of them, or drop `x`"):
        check({"x": 1}, [OnlyWith("x", ("a", "b", "c"))])


def test_reports_the_first_row_that_is_broken():
    table = [NotWith("a", ("b",)), NotWith("a", ("c",))]
    with pytest.raises(UsageError, match="`a` cannot be used with `b`"):
        check({"a": 1, "b": 1, "c": 1}, table)
    with pytest.raises(UsageError, match="`a` cannot be used with `c`"):
        check({"a": 1, "c": 1}, table)
