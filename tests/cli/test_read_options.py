import pytest

from clipdre.cli.read_options import IMAGE_KEY, read_config
from clipdre.config import Decode, ReadConfig
from clipdre.errors import UsageError

LIMITS = (1, 2, 3, 4)


def test_the_defaults_are_those_of_python():
    defaults = ReadConfig()
    limits = (
        defaults.max_member_bytes,
        defaults.max_json_bytes,
        defaults.max_caption_bytes,
        defaults.max_pixels,
    )
    assert read_config(IMAGE_KEY, "txt", *limits) == defaults


def test_every_option_is_a_setting():
    found = read_config("jpg", "txt", *LIMITS, Decode.FAST)
    assert (found.max_member_bytes, found.max_json_bytes) == (1, 2)
    assert (found.max_caption_bytes, found.max_pixels) == (3, 4)
    assert found.decode is Decode.FAST


@pytest.mark.parametrize(
    ("image_key", "suffixes"),
    [("jpg", ("jpg",)), (".JPG, png,", ("jpg", "png")), ("jpg;png", ("jpg;png",))],
)
def test_suffixes_are_split_at_commas(image_key, suffixes):
    assert read_config(image_key, "txt", *LIMITS).image_suffixes == suffixes


@pytest.mark.parametrize(
    ("text_key", "suffix", "field"),
    [
        ("txt", "txt", None),
        (".CAPTION", "caption", None),
        ("json", "json", None),
        ("json:title", "txt", "title"),
        ("json:a:b", "txt", "a:b"),
    ],
)
def test_a_caption_is_a_member_or_a_field_of_one(text_key, suffix, field):
    found = read_config("jpg", text_key, *LIMITS)
    assert (found.caption_suffix, found.caption_field) == (suffix, field)


@pytest.mark.parametrize(
    ("image_key", "text_key", "message"),
    [
        (" , ", "txt", "`image_key` is empty: name at least one suffix, such as jpg"),
        ("jpg", "xml:title", "invalid `text_key` xml:title: use a suffix, or json:FIELD"),
        ("jpg", "json:", "invalid `text_key` json:: use a suffix, or json:FIELD"),
    ],
)
def test_refuses_what_makes_no_sense(image_key, text_key, message):
    with pytest.raises(UsageError) as caught:
        read_config(image_key, text_key, *LIMITS)
    assert str(caught.value) == message


class TestKeep:
    def test_fields_are_split_at_commas_or_given_apart(self):
        found = read_config("jpg", "txt", *LIMITS, keep=["json:a, json:b", "json:c:d"])
        assert found.keep == ("a", "b", "c:d")
        assert read_config("jpg", "txt", *LIMITS).keep == ()

    @pytest.mark.parametrize("name", ["a", "json:", "txt:a", "", "json:a,"])
    def test_only_fields_of_json_can_be_kept(self, name):
        with pytest.raises(UsageError, match=r"invalid `keep` .*: use json:FIELD"):
            read_config("jpg", "txt", *LIMITS, keep=[name])


class TestTextKey:
    def test_several_are_captions_in_order(self):
        found = read_config("jpg", [".TXT", "json:recaption", "json:a:b"], *LIMITS)
        assert [str(c) for c in found.captions] == ["txt", "json:recaption", "json:a:b"]
        assert read_config("jpg", ["json:a"], *LIMITS) == read_config("jpg", "json:a", *LIMITS)

    @pytest.mark.parametrize("keys", [["txt", ".txt"], ["json:a", "json:a"]])
    def test_the_same_twice_is_refused(self, keys):
        with pytest.raises(UsageError, match="a `text_key` is given twice"):
            read_config("jpg", keys, *LIMITS)

    def test_each_is_checked(self):
        with pytest.raises(UsageError, match="invalid `text_key` txt:a"):
            read_config("jpg", ["txt", "txt:a"], *LIMITS)
