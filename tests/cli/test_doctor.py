import json

import pytest

from tests.cli.running import error_of, printed, rows_of
from tests.helpers import pair, png, write_tar


@pytest.fixture
def bad(tmp_path):
    """One good sample, one with a cut image, one without a caption."""
    members = [*pair("a"), ("b.png", png()[:60]), ("b.txt", b"x"), ("c.png", png(1))]
    return write_tar(tmp_path / "bad.tar", members)


def test_good_shards_are_passed(run, pool):
    found = run(f"doctor {pool}")
    assert found.stderr == ""
    assert printed(found).splitlines() == [
        "300 samples in 3 shards, 300 good",
        "only the headers of images were checked; --decode reads them to the last pixel",
        "nothing would be lost",
    ]


def test_what_would_be_lost_is_reported_with_a_cure(run, bad):
    found = run(f"doctor {bad} --decode --workers 1")
    assert found.exit_code == 1
    assert found.stderr == ""
    lines = found.stdout.splitlines()
    assert lines[0] == "3 samples in 1 shard, 1 good"
    rows = rows_of(found.stdout)
    assert rows["missing_caption"] == rows["unreadable_image"] == ["yes", "1", "1"]
    at = lines.index("missing_caption: recorded in failures/; its neighbours are scored")
    assert lines[at + 1] == "    cure: set --text-key to its suffix or to json:FIELD"
    assert lines[at + 2].startswith("    e.g. bad/c at byte ")


def test_a_tar_that_was_cut_between_members_is_reported(run, tmp_path):
    path = write_tar(tmp_path / "a.tar", [*pair("a"), *pair("b", seed=1)])
    whole = path.read_bytes()
    path.write_bytes(whole[:2048])
    found = run(f"doctor {path}")
    assert found.exit_code == 0
    assert rows_of(found.stdout)["no_end_marker"] == ["no", "1", "1"]
    last = found.stdout.splitlines()[-1]
    assert last == "nothing would be lost of what the shards hold, but some may be cut off"
    (tmp_path / "a_stats.json").write_text('{"count": 9, "successes": 2}')
    found = run(f"doctor {path}")
    assert found.exit_code == 1
    assert rows_of(found.stdout)["fewer_samples"] == ["yes", "1", "1"]
    path.write_bytes(whole)
    assert run(f"doctor {path}").stdout.startswith("2 samples in 1 shard, 2 good\n")


def test_only_decode_finds_an_image_that_is_cut(run, bad):
    found = run(f"doctor {bad}")
    assert found.exit_code == 1
    assert found.stdout.startswith("3 samples in 1 shard, 2 good\n")


def test_reading_options_are_used(run, tmp_path):
    write_tar(tmp_path / "a.tar", [("a.png", png()), ("a.json", b'{"title": "x"}')])
    assert run("doctor a.tar").exit_code == 1
    assert run("doctor a.tar --text-key json:title").exit_code == 0
    assert run("doctor a.tar --text-key json:title --max-pixels 3").exit_code == 1
    assert run("doctor a.tar --text-key json:title --image-key jpg").exit_code == 1


def test_reads_a_list_from_stdin(run, pool):
    found = run("doctor -", stdin=f"{pool}/00000.tar\n")
    assert printed(found).startswith("100 samples in 1 shard")


def test_json_is_for_machines(run, bad):
    found = run(f"doctor {bad} --json")
    assert found.exit_code == 1
    report = json.loads(found.stdout)
    assert (report["shards"], report["samples"], report["good"]) == (1, 3, 2)
    (finding,) = report["findings"]
    assert finding["reason"] == "missing_caption"
    assert finding["lost"] is True
    assert finding["samples"] == 1
    assert finding["cure"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("nowhere.tar", 1, "no such shard or folder: nowhere.tar: check the path"),
        ("", 2, "missing argument SHARDS: see 'clipdre doctor --help'"),
        ("a.tar --text-key xml:x", 2, "invalid --text-key xml:x: use a suffix, or json:FIELD"),
        ("a.tar --image-key ,", 2, "--image-key is empty: name at least one suffix, such as jpg"),
        ("a.tar --workers 0", 2, "use a value greater than or equal to 1"),
        ("a.tar --engine ray --workers 2", 2, "--workers cannot be used with --engine ray"),
    ],
)
def test_wrong_usage(run, options, code, message):
    assert message in error_of(run(f"doctor {options}"), code)
