from collections import Counter

import pytest

from clipdre.config import ReadConfig
from clipdre.doctor import ADVICE, diagnose
from clipdre.formats.tars.samples import Reason
from tests.corpus import GOOD, KINDS
from tests.helpers import pair, png, write_tar

OBSERVATIONS = {"repeated_key", "shared_key", "scattered_key", "unsafe_key"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_doctor_finds_what_score_would_find(kind, tmp_path):
    path = tmp_path / f"shard{kind.suffix}"
    path.write_bytes(kind.data)
    found = diagnose([str(path)], ReadConfig(), decode=True)
    expected = Counter(reason for _, reason in kind.outcomes)
    assert found.samples == expected.total()
    assert found.good == expected.pop(GOOD, 0)
    assert found.loses == bool(expected)
    lost = {name: f.samples for name, f in found.findings.items() if f.lost}
    assert lost == expected
    assert set(found.findings) - set(lost) <= OBSERVATIONS


def test_keys_that_repeat_are_told_apart(tmp_path):
    members = [
        *pair("a"),
        *pair("twice"),
        ("apart.png", png()),
        *pair("twice"),
        ("apart.txt", b"x"),
        *pair("../out"),
    ]
    for name in ("x", "y"):
        write_tar(tmp_path / f"{name}.tar", members if name == "x" else pair("a"))
    found = diagnose([str(tmp_path / "x.tar"), str(tmp_path / "y.tar")], ReadConfig(), workers=2)
    counts = {name: (f.lost, f.samples, f.shards) for name, f in found.findings.items()}
    assert counts == {
        "repeated_key": (False, 1, 1),
        "scattered_key": (False, 1, 1),
        "unsafe_key": (False, 1, 1),
        "shared_key": (False, 2, 2),
        "missing_caption": (True, 1, 1),
        "missing_image": (True, 1, 1),
    }
    (example,) = found.findings["scattered_key"].examples
    assert (example.shard, example.key) == ("x", "apart")
    assert (found.samples, found.good) == (7, 5)


def test_without_decoding_headers_are_read(tmp_path):
    path = write_tar(tmp_path / "a.tar", [*pair("a"), ("b.png", png()[:60]), ("b.txt", b"x")])
    assert not diagnose([str(path)], ReadConfig()).loses
    assert diagnose([str(path)], ReadConfig(), decode=True).loses


def test_a_shard_that_is_not_there_is_a_finding(tmp_path):
    found = diagnose([str(tmp_path / "none.tar")], ReadConfig())
    assert list(found.findings) == ["unreadable_shard"]


def test_there_is_advice_on_everything():
    of_other_inputs = {
        Reason.BROKEN_FILE,
        Reason.MISALIGNED_ROWS,
        Reason.NON_FINITE_EMBEDDING,
        Reason.WORKER_DIED,
    }
    assert set(ADVICE) == {r.value for r in set(Reason) - of_other_inputs} | OBSERVATIONS
