import re
import tarfile
from collections import Counter
from dataclasses import fields

import pytest

from clipdre.config import ReadConfig
from clipdre.doctor import ADVICE, diagnose
from clipdre.formats.tars.samples import NoteKind, Reason
from tests.clusters_of_ray import on, with_ray
from tests.corpus import GOOD, KINDS
from tests.helpers import pair, png, write_tar

OBSERVATIONS = {"repeated_key", "shared_key", "scattered_key", "unsafe_key", "long_word"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_doctor_finds_what_score_would_find(kind, tmp_path):
    path = tmp_path / f"shard{kind.suffix}"
    path.write_bytes(kind.data)
    found = diagnose([str(path)], ReadConfig(), decode=True)
    expected = Counter(reason for _, reason in kind.outcomes)
    assert found.samples == expected.total()
    assert found.good == expected.pop(GOOD, 0)
    assert found.loses == bool(expected)
    lost = {name: f.samples for name, f in found.findings.items() if f.lost}
    assert lost == expected
    assert set(found.findings) - set(lost) - OBSERVATIONS == kind.notes


def test_repeated_shared_and_scattered_keys_are_distinguished(tmp_path):
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


@pytest.fixture
def places(tmp_path):
    """Five shards with a bad image each, and a key that they share."""
    return [
        str(
            write_tar(
                tmp_path / f"{n}.tar",
                [*pair(f"a{n}"), ("b.png", b"<html>"), ("b.txt", b"b"), *pair("c")],
            )
        )
        for n in range(5)
    ]


def test_processes_find_what_threads_find(places, monkeypatch):
    monkeypatch.setattr("clipdre.doctor.WORTH_PROCESSES", 0)
    config = ReadConfig()
    found = diagnose(places, config, workers=2, processes=True)
    assert found == diagnose(places, config, workers=2) == diagnose(places, config)
    assert (found.samples, found.good) == (15, 10)


@with_ray
def test_a_cluster_finds_what_threads_find(cluster, places):
    found = diagnose(places, ReadConfig(), decode=True, engine=on(cluster))
    assert found == diagnose(places, ReadConfig(), decode=True)
    assert (found.samples, found.good) == (15, 10)


def test_words_that_are_no_language_are_counted(tmp_path):
    members = [
        *pair("a", "red " * 9000),
        *pair("b", "x" * 1001),
        *pair("c", f"data {'y' * 60_000}"),
    ]
    found = diagnose([str(write_tar(tmp_path / "a.tar", members))], ReadConfig())
    (finding,) = found.findings.values()
    assert (finding.lost, finding.samples, found.good) == (False, 2, 3)
    assert [e.message for e in finding.examples] == [
        "a word of 1,001 letters",
        "a word of 60,000 letters",
    ]


def test_only_decoding_finds_truncated_images(tmp_path):
    path = write_tar(tmp_path / "a.tar", [*pair("a"), ("b.png", png()[:60]), ("b.txt", b"x")])
    assert not diagnose([str(path)], ReadConfig()).loses
    assert diagnose([str(path)], ReadConfig(), decode=True).loses


def test_missing_shard_is_a_finding(tmp_path):
    found = diagnose([str(tmp_path / "none.tar")], ReadConfig())
    assert list(found.findings) == ["unreadable_shard"]
    assert (found.samples, found.good, found.loses) == (1, 0, True)


def test_examples_are_few_and_say_where(tmp_path):
    members = [member for n in range(5) for member in pair(f"k{n}", "")]
    path = write_tar(tmp_path / "a.tar", members)
    finding = diagnose([str(path)], ReadConfig()).findings["empty_caption"]
    assert (finding.samples, finding.shards, len(finding.examples)) == (5, 1, 3)
    assert [(e.shard, e.key) for e in finding.examples] == [("a", f"k{n}") for n in range(3)]
    with tarfile.open(path) as tar:
        starts = [tar.getmember(f"k{n}.png").offset for n in range(3)]
    assert [e.offset for e in finding.examples] == starts


def test_every_finding_has_advice():
    """The corpus provokes all reasons but that of a shard that cannot be opened."""
    provoked = {reason for kind in KINDS for _, reason in kind.outcomes} - {GOOD}
    notes = {kind.value for kind in NoteKind}
    assert set(ADVICE) == provoked | {"unreadable_shard"} | OBSERVATIONS | notes


def test_reasons_without_advice_come_from_other_commands():
    """Those of embeddings that were computed elsewhere, and of encoding."""
    assert {reason.value for reason in Reason} - set(ADVICE) == {
        "broken_file",
        "misaligned_rows",
        "non_finite_embedding",
        "worker_died",
    }


@pytest.mark.parametrize("name", ADVICE)
def test_advice_is_short_and_names_options_as_parameters(name):
    options = {"image_key", "text_key"} | {field.name for field in fields(ReadConfig)}
    for text in ADVICE[name]:
        assert 0 < len(text) <= 60
        assert "--" not in text
        assert set(re.findall("`(.*?)`", text)) <= options
