import json

import pytest

from clipdre.formats.tars.seen import members_seen
from tests.helpers import pair, png, write_tar


def test_suffixes_and_fields_of_samples_the_most_frequent_first(tmp_path):
    members = [*pair("a", title="one", uid="1"), *pair("b", title="two"), ("c.seg.png", png())]
    url = str(write_tar(tmp_path / "a.tar", [*members, ("._a.png", b"x")]))
    assert members_seen(url) == "members png, txt, json, seg.png and json fields title, uid"


def test_names_of_strangers_are_shown_harmlessly(tmp_path):
    fields = {f"f{n}": n for n in range(20)} | {"\x1b[31m": 1}
    url = str(write_tar(tmp_path / "a.tar", [("a.json", json.dumps(fields).encode())]))
    assert members_seen(url).endswith("f10, f11 and 9 more")
    members = [("a.json", b'{"\\u001b[31m": 1}'), (f"b.{'x' * 60}", b"")]
    url = str(write_tar(tmp_path / "b.tar", members))
    assert members_seen(url) == f"members json, '{'x' * 40}' and json fields '\\x1b[31m'"


@pytest.mark.parametrize("data", [b"", b"no tar" * 1000, b"\x1f\x8bcut"])
def test_what_cannot_be_read_is_unknown(tmp_path, data):
    (tmp_path / "a.tar").write_bytes(data)
    assert members_seen(str(tmp_path / "a.tar")) == ""
    assert members_seen("/nowhere/a.tar") == ""
