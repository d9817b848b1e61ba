import pytest

from clipdre.formats.tars.captions import longest_word, says_nothing


@pytest.mark.parametrize(
    "caption",
    [
        "",
        " \n\t\u00a0\u3000",
        "&nbsp;",
        "&amp;nbsp; &#8203;",
        "\ufeff",
        "\0",
        "\u200b\u200e",
        "<end_of_text>",
        "<start_of_text> <END_OF_TEXT>&nbsp;",
        "&lt;end_of_text&gt;",
    ],
)
def test_captions_without_a_visible_character_say_nothing(caption):
    assert says_nothing(caption)


@pytest.mark.parametrize("caption", ["a", "\ufeffa", "&amp;", "...", "画", "\u0301", "<b>", "🙂"])
def test_captions_with_a_visible_character_say_something(caption):
    assert not says_nothing(caption)


@pytest.mark.parametrize(("caption", "length"), [("", 0), ("a bcd\tef", 3), (" x" * 9, 1)])
def test_longest_word(caption, length):
    assert longest_word(caption) == length
