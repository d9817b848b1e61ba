import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdre.formats.tars.samples import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("red circle", "red circle"),
        ("画像 é 🙂\n\x1b", "画像 é 🙂\n\x1b"),  # controls are the terminal's concern
        ("x\ud800y", "x\\ud800y"),
        ("b\udce9.png", "b\\udce9.png"),  # byte 0xe9, as tarfile decodes it
    ],
)
def test_only_surrogates_are_escaped(text, expected):
    assert printable(text) == expected


@given(st.text())
def test_any_text_becomes_utf8_and_is_stable(text):
    found = printable(text)
    assert found.encode("utf-8").decode("utf-8") == found
    assert printable(found) == found


@given(st.text(st.characters(codec="utf-8")))
def test_utf8_is_unchanged(text):
    assert printable(text) == text
