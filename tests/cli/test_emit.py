import json
import tarfile

import numpy as np
import pytest

from clipdre.cli.numbers import parse_bytes
from tests.cli.running import error_of, printed
from tests.helpers import pair, read_scores, tiny_score, write_tar


@pytest.fixture
def keys(scored, tmp_path):
    """Keys of three samples, out of order; also in keys.txt."""
    names = [f"{row['shard']}/{row['key']}" for row in read_scores(*scored).to_pylist()]
    keys = [names[3], names[250], names[1]]
    (tmp_path / "keys.txt").write_text("\n".join(keys))
    return keys


def test_writes_listed_samples_in_pool_order(run, scored, keys, tmp_path):
    found = run(f"emit {scored[0]} --keys keys.txt -o kept")
    assert printed(found) == "kept\n"
    assert found.stderr == "keeping 3 of 300 pairs\n"
    with tarfile.open(tmp_path / "kept" / "00000000.tar") as tar:
        captions = [name for name in tar.getnames() if name.endswith(".txt")]
    assert captions == [f"{key.partition('/')[2]}.txt" for key in sorted(keys)]


def test_reads_a_list_from_stdin_and_reports_names_that_are_missing(run, scored, keys):
    stdin = "".join(f"{key}\n" for key in [*keys, "nosuch"])
    found = run(f"emit {scored[0]} --keys - --format keys -o -", stdin=stdin)
    assert printed(found).splitlines() == sorted(keys)
    assert found.stderr.splitlines() == [
        "keeping 3 of 300 pairs",
        "not in these scores: 1 of 4 names, such as 'nosuch'",
    ]


def test_reports_a_list_that_keeps_more_samples_than_it_names(run, tmp_path):
    (tmp_path / "pool").mkdir()
    for shard in "ab":
        write_tar(tmp_path / "pool" / f"{shard}.tar", [*pair("1"), *pair("2")])
    tiny_score(tmp_path / "pool", tmp_path / "s")
    found = run("emit s --keys - --format keys -o -", stdin="1\nb/2\nnosuch\n")
    assert printed(found).splitlines() == ["a/1", "b/1", "b/2"]
    assert found.stderr.splitlines()[:2] == [
        "keeping 3 of 4 pairs",
        "several samples share a name: 2 names keep 3 samples",
    ]


def test_reads_uids_and_writes_rows(run, scored, tmp_path):
    sample = f"filter {scored[0]} --where 'width = 64' --sample 9 --format uids -o"
    printed(run(f"{sample} subset.npy"))
    rows = printed(run(f"emit {scored[0]} --keys subset.npy --format jsonl -o -")).splitlines()
    uids = {json.loads(row)["uid"] for row in rows}
    words = np.load(tmp_path / "subset.npy")
    assert uids == {f"{int(high):016x}{int(low):016x}" for high, low in words}
    assert len(uids) == 9


def test_shuffles_by_seed(run, scored, tmp_path):
    table = read_scores(*scored)
    (tmp_path / "all.txt").write_text("\n".join(table["key"].to_pylist()))
    names = []
    for options in ("", "--shuffle --seed 1", "--shuffle --seed 2"):
        printed(run(f"emit {scored[0]} --keys all.txt -o kept{len(names)} {options}"))
        with tarfile.open(tmp_path / f"kept{len(names)}" / "00000000.tar") as tar:
            names.append(tar.getnames())
    assert sorted(names[0]) == sorted(names[1]) == sorted(names[2])
    assert names[0] != names[1] != names[2]


def test_takes_samples_from_shards_that_moved(run, scored, pool, keys, tmp_path):
    for path in pool.glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    printed(run(f"emit {scored[0]} --keys keys.txt -o kept --shards {tmp_path}"))
    with tarfile.open(tmp_path / "kept" / "00000000.tar") as tar:
        assert f"{keys[1].partition('/')[2]}.png" in tar.getnames()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--keys none.txt",
            "cannot read --keys none.txt (No such file or directory): name a file, or - for stdin",
        ),
        (
            "--keys other.txt",
            "other.txt names none of the samples of {scores}, only others such as 'nosuch': "
            "list keys, uids or shard/key pairs of these scores; a table has to have a header "
            "with key or uid",
        ),
        ("--keys empty.txt", "empty.txt is empty: list at least one sample"),
    ],
)
def test_a_list_that_names_nothing_is_refused(run, scored, tmp_path, options, message):
    (tmp_path / "other.txt").write_text("nosuch\n")
    (tmp_path / "empty.txt").write_text("")
    error = error_of(run(f"emit {scored[0]} {options} -o out"), 1)
    assert error == message.format(scores=scored[0])
    assert not (tmp_path / "out").exists()


def test_stdin_that_names_nothing_is_refused(run, scored):
    found = run(f"emit {scored[0]} --keys - -o out", stdin="nosuch\n")
    assert error_of(found, 1).startswith("stdin names none of the samples of ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("-o out", "missing option --keys: see 'clipdre emit --help'"),
        ("--keys k", "no --output: name a folder or file, or - for stdout"),
        (
            "--keys k -o out --seed 1",
            "--seed can only be used with --shuffle: add --shuffle, or drop --seed",
        ),
        (
            "--keys k -o out --shuffle --format keys",
            "--shuffle can only be used with --format tar: set --format to tar, or drop --shuffle",
        ),
        (
            "--keys k -o - --shuffle",
            "--shuffle cannot be used with --output -, a single tar in pool order: "
            "drop --shuffle, or change --output",
        ),
        (
            "--keys k -o - --writers 2",
            "--writers cannot be used with --output -, a single tar: "
            "drop --writers, or change --output",
        ),
        (
            "--keys k -o - --overwrite",
            "--overwrite cannot be used with --output -: drop --overwrite, or change --output",
        ),
        (
            "--keys k -o out --address 127.0.0.1:1",
            "--address can only be used with --engine ray: set --engine to ray, or drop --address",
        ),
        (
            "--keys k -o out --max-bytes 0",
            "invalid value for --max-bytes: invalid size '0': use bytes or a suffix, e.g. 500MB",
        ),
    ],
)
def test_wrong_usage(run, scored, options, message):
    assert error_of(run(f"emit {scored[0]} {options}"), 2) == message


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("5000", 5000),
        ("10k", 10_000),
        ("10 kB", 10_000),
        ("500MB", 500_000_000),
        ("1.5G", 1_500_000_000),
        ("2TB", 2 * 10**12),
        ("7B", 7),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "B", "MB", "-1", "0.1", "5X", "1e400", "nan"])
def test_other_sizes_are_refused(run, text):
    command = f"emit s --keys k -o out --max-bytes '{text}'"
    assert f"invalid size {text!r}: use bytes" in error_of(run(command), 2)
