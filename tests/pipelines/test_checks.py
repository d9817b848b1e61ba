"""First tries that fail: they say why, and block nothing."""

import dataclasses

import pytest

from clipdre.config import ReadConfig
from clipdre.errors import InputError, ScoresError
from clipdre.formats.folders.manifest import read_manifest
from clipdre.truth.pool import write_pool
from tests.helpers import TINY, pair, png, tiny_score, write_tar


def reading(**options):
    return dataclasses.replace(TINY, read=ReadConfig(**options))


@pytest.fixture
def shards(tmp_path):
    """Two shards of four pairs with json."""
    (tmp_path / "pool").mkdir()
    for shard in range(2):
        pairs = [pair(str(n), f"c {n}", 4 * shard + n, title=f"t {n}") for n in range(4)]
        members = [member for members in pairs for member in members]
        write_tar(tmp_path / "pool" / f"{shard}.tar", members)
    return tmp_path / "pool"


class TestNoUsablePair:
    @pytest.mark.parametrize(
        ("options", "reason", "option"),
        [
            ({"caption_suffix": "caption"}, "missing_caption .no caption member.", "text_key"),
            ({"caption_field": "text"}, "missing_caption .no json member with", "text_key"),
            ({"image_suffixes": ("jpg",)}, "missing_image .no member with", "image_key"),
        ],
    )
    def test_names_what_the_samples_have(self, shards, tmp_path, options, reason, option):
        expected = f"no pair is usable: 8 of 8 samples failed for {reason}.*; samples of 0 have "
        with pytest.raises(InputError, match=expected) as caught:
            tiny_score(shards, tmp_path / "s", reading(**options))
        assert caught.value.problem.endswith("members png, txt, json and json fields title")
        assert caught.value.cure.startswith(f"if `{option}` is wrong, correct it and run again")

    def test_gives_the_most_common_reason(self, tmp_path):
        broken = [(f"{n}.{s}", b"x") for n in range(3) for s in ("png", "txt")]
        write_tar(tmp_path / "a.tar", [*broken, ("z.png", png())])
        expected = "no pair is usable: 3 of 4 samples failed for unreadable_image"
        with pytest.raises(InputError, match=expected) as caught:
            tiny_score(tmp_path / "a.tar", tmp_path / "s")
        assert "doctor' explains each reason" in caught.value.cure
        assert "members" not in caught.value.problem


class TestFailedTry:
    @pytest.mark.parametrize("first", [{"caption_suffix": "caption"}, {"caption_field": "text"}])
    def test_is_replaced_without_overwrite(self, shards, tmp_path, first):
        with pytest.raises(InputError):
            tiny_score(shards, tmp_path / "s", reading(**first))
        with pytest.raises(InputError):  # the same again is the same
            tiny_score(shards, tmp_path / "s", reading(**first))
        (tmp_path / "s" / "notes.txt").write_text("mine")
        manifest = tiny_score(shards, tmp_path / "s")
        assert manifest.rows == 8
        assert manifest.failures == {}
        assert (tmp_path / "s" / "notes.txt").read_text() == "mine"

    def test_with_other_shards_is_replaced_too(self, shards, tmp_path):
        with pytest.raises(InputError):
            tiny_score(shards / "0.tar", tmp_path / "s", reading(caption_field="text"))
        assert tiny_score(shards / "1.tar", tmp_path / "s").rows == 4

    def test_with_a_single_pair_is_replaced_too(self, tmp_path):
        members = [
            *pair("a", title="a"),
            *pair("b", "", 1, title="b"),
            *pair("c", "", 2, title="c"),
        ]
        write_tar(tmp_path / "a.tar", members)
        with pytest.raises(InputError, match="hold 1 usable pair"):
            tiny_score(tmp_path / "a.tar", tmp_path / "s")
        config = reading(caption_field="title")
        assert tiny_score(tmp_path / "a.tar", tmp_path / "s", config).rows == 3

    def test_pairs_that_are_encoded_are_not_thrown_away(self, shards, tmp_path):
        broken = [(f"{n}.{s}", b"x") for n in range(9) for s in ("png", "txt")]
        write_tar(shards / "2.tar", broken)
        with pytest.raises(InputError, match="`max_bad_fraction`"):
            tiny_score(shards, tmp_path / "s", max_bad_fraction=0.1)
        with pytest.raises(ScoresError, match="differs in read caption_field"):
            tiny_score(shards, tmp_path / "s", reading(caption_field="title"))
        assert not read_manifest(tmp_path / "s").complete

    def test_finished_scores_are_not_replaced(self, tmp_path):
        write_pool(tmp_path / "pool", 20, seed=1, noise={})
        tiny_score(tmp_path / "pool", tmp_path / "s")
        with pytest.raises(ScoresError, match="differs in read caption_field"):
            tiny_score(tmp_path / "pool", tmp_path / "s", reading(caption_field="title"))
