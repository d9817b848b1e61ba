import pytest

from clipdre.words import (
    changed,
    closest,
    count,
    html_table,
    one_line,
    operand,
    size,
    text_table,
    whole_number,
)

KNOWN = ["key", "uid", "similarity", "log_ratio", "log_ratio_se", "kl_image", "kl_text"]


def test_counts_have_their_noun():
    assert count(0, "shard") == "0 shards"
    assert count(1, "shard") == "1 shard"
    assert count(1200, "shard") == "1,200 shards"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        ("2,000", 2000),
        (" 10k", 10**4),
        ("10 K", 10**4),
        ("1.5M", 1_500_000),
        ("3G", 3 * 10**9),
    ],
)
def test_numbers_may_have_a_suffix(text, number):
    assert whole_number(text) == number


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_600, "100 kB"),
        (1_260_000, "1.3 MB"),
        (999_999, "1.0 MB"),
        (7.5e15, "7,500 TB"),
    ],
)
def test_sizes_have_the_unit_that_suits_them(nbytes, text):
    assert size(nbytes) == text


@pytest.mark.parametrize(
    "text", ["", "k", "-1", "1.5", "0.0001k", "1e3", "1kk", "10x", "٣", "9" * 30]
)
def test_other_texts_are_not_whole_numbers(text):
    with pytest.raises(ValueError, match="is not a whole number"):
        whole_number(text)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("similrity", "did you mean similarity?"),
        ("kl_imag", "did you mean kl_image?"),
        ("ratio", "did you mean log_ratio or log_ratio_se?"),  # part of the name
        ("my_uid_column", "did you mean uid?"),  # holds a name
        ("LOG_RATIO", "did you mean log_ratio or log_ratio_se?"),
        ("zzz", ""),
    ],
)
def test_hints_name_the_closest(name, hint):
    assert closest(name, KNOWN) == hint


def test_hints_are_few():
    known = [f"kl_{n}" for n in range(9)]
    assert closest("kl_", known).count("kl_") == 3
    assert closest("kl_", known, most=1).count("kl_") == 1
    assert closest("kl", ["kl_image", "kl_text", "klr_text", "klr_image"], most=2).count("kl") == 2


def test_no_hint_without_names():
    assert closest("x", []) == ""


@pytest.mark.parametrize(
    ("before", "now", "shown"),
    [
        (3, 11_192_320, "3 then, 11,192,320 now"),
        (True, False, "True then, False now"),
        (["jpg", "png"], ["png"], "jpg, png then, png now"),
        (None, "title", "none then, title now"),
        (["title"], [], "title then, none now"),
        (
            {"size": 224, "mean": (0.5, 0.5)},
            {"size": 256, "mean": (0.5, 0.5)},
            "size 224 then, size 256 now",
        ),
        ({}, {"mode": "RGB"}, "mode none then, mode RGB now"),
    ],
)
def test_changes_are_shown_without_brackets(before, now, shown):
    assert changed(before, now) == shown


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(2, "No such file or directory", "a"), "No such file or directory"),
        (OSError("one\ntwo"), "one"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_other_libraries_errors_are_one_line(error, line):
    assert one_line(error) == line


def test_tables_are_aligned_and_escaped():
    rows = [["a", "1"], ["bcd", "12,345"]]
    assert text_table("title", ["x", "count"], rows).splitlines() == [
        "title",
        "x     count",
        "a         1",
        "bcd  12,345",
    ]
    html = html_table("<b>", ["x"], [["a & b"]])
    assert html == (
        "<table><caption>&lt;b&gt;</caption><tr><th>x</th></tr><tr><td>a &amp; b</td></tr></table>"
    )


def test_paths_are_not_taken_for_options():
    assert operand("-s") == "./-s"
    assert operand("a/-s") == "a/-s"
