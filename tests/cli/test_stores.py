"""Score folders in S3, by the command line."""

import json
import os
import signal
import subprocess
import sys
import time

import fsspec
import pytest
from typer.testing import CliRunner

from clipdre.cli.main import app
from clipdre.formats.files import remote
from clipdre.truth.pool import write_pool

MODEL = ("--model", "clipdre-tiny", "--device", "cpu")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    write_pool(folder, 60, seed=5, noise={}, shard_size=20)
    return folder


@pytest.fixture(scope="module")
def files(s3):
    """An S3 with the bucket ``kept``, in this process and in those that it starts."""
    before = dict(os.environ)
    os.environ.update(s3)
    fsspec.config.set_conf_env(fsspec.config.conf)
    found = fsspec.filesystem("s3", endpoint_url=s3["FSSPEC_S3_ENDPOINT_URL"])
    found.mkdir("kept")
    yield found
    os.environ.clear()
    os.environ.update(before)
    fsspec.config.conf.pop("s3")


@pytest.fixture(scope="module")
def stored(files, pool, tmp_path_factory):
    """`pool`, scored into S3."""
    scratch = tmp_path_factory.mktemp("scratch")
    url = "s3://kept/stored"
    done = clipdre("score", pool, "-o", url, *MODEL, "--scratch", scratch)
    assert (done.exit_code, done.stdout) == (0, f"{url}\n"), done.output
    return url


def clipdre(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def content(files, place):
    files.invalidate_cache()
    return {path.removeprefix(f"{place}/"): files.cat_file(path) for path in files.find(place)}


def test_killed_run_continues_on_another_machine(stored, files, pool, tmp_path):
    command = [sys.executable, "-m", "clipdre", "score", str(pool), "-o", "s3://kept/killed"]
    command += [*MODEL, "--scratch", str(tmp_path / "a")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as begun:
        while not content(files, "kept/killed/embeddings/metadata"):
            assert begun.poll() is None
            time.sleep(0.05)
        begun.send_signal(signal.SIGKILL)
    assert json.loads(files.cat_file("kept/killed/manifest.json"))["complete"] is False
    known = clipdre("info", "s3://kept/killed", "--scratch", tmp_path / "reader", "--json")
    assert json.loads(known.stdout)["unfinished"]["encoded"] > 0
    done = clipdre("score", pool, "-o", "s3://kept/killed", *MODEL, "--scratch", tmp_path / "b")
    assert done.exit_code == 0, done.output
    assert content(files, "kept/killed").keys() == content(files, stored[5:]).keys()


def test_every_reader_reads_it(stored, files, tmp_path):
    scratch = ("--scratch", tmp_path / "s")
    info = clipdre("info", stored, "--json", *scratch)
    disk = json.loads(info.stdout)["disk"]
    assert disk["embeddings"] == sum(files.du(f"{stored[5:]}/embeddings", total=False).values())
    for place in ("s3://kept/rows.parquet", "s3://kept/keys.txt", tmp_path / "keys.txt"):
        kept = clipdre("filter", stored, "--all", "-o", place, *scratch)
        assert (kept.exit_code, kept.stdout) == (0, f"{place}\n"), kept.output
    assert files.cat_file("kept/keys.txt") == (tmp_path / "keys.txt").read_bytes()
    emitted = ("emit", stored, "--keys", place, "-o", "s3://kept/subset", *scratch)
    assert clipdre(*emitted).stdout == "s3://kept/subset\n"
    assert json.loads(files.cat_file("kept/subset/summary.json"))["scores"] == stored


def test_vectors_are_fetched_only_for_scorers_that_need_them(stored, files, tmp_path):
    scratch = ("--scratch", tmp_path / "s")
    words = clipdre("measure", stored, "word-frequency", *scratch)
    assert words.stdout == f"{stored}/columns/word-frequency\n", words.output
    assert not list(tmp_path.rglob("*.npy"))
    weights = clipdre("measure", stored, "semantic-duplicates", *scratch)
    assert weights.exit_code == 0, weights.output
    assert list(tmp_path.rglob("*.npy"))
    names = content(files, stored[5:])
    assert {"columns/word-frequency/record.json", "columns/semantic-duplicates/record.json"} <= set(
        names
    )
    assert not [name for name in names if ".fit/" in name]


def test_unusable_places_are_one_line(files, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "WAITS", ())
    places = {
        "s3://none/scores": "cannot list s3://none/scores: ",
        "s3://someone:SECRET@kept/scores": "cannot list s3://kept/scores",
        "nosuch://u:SECRET@h/scores": "cannot list nosuch://h/scores: ",
    }
    for place, message in places.items():
        for command in (["info", place], ["score", pool, "-o", place, *MODEL]):
            done = clipdre(*command, "--scratch", tmp_path)
            assert (done.exit_code, done.stdout) == (1, ""), done.output
            assert message in done.stderr
            assert done.stderr.count("clipdre: error: ") == 1
            assert "SECRET" not in done.output


def test_scores_are_never_overwritten_by_subsets(stored, files, tmp_path):
    for name in ("scores/00000.parquet", "manifest.json"):
        place = f"{stored}/{name}"
        given = ("--all", "--format", "parquet", "-o", place, "--overwrite", "--scratch", tmp_path)
        refused = clipdre("filter", stored, *given)
        assert f"{place} is part of a score folder" in refused.stderr
    refused = clipdre("filter", stored, "--all", "-o", stored, "--overwrite", "--scratch", tmp_path)
    assert f"{stored} is a score folder" in refused.stderr


def test_files_of_others_are_refused(files, pool, tmp_path):
    files.pipe_file("kept/theirs/notes.txt", b"mine")
    files.pipe_file("kept/parts/embeddings/img_emb/img_emb_0.npy", b"mine")
    for name in ("theirs", "parts"):
        place = f"s3://kept/{name}"
        done = clipdre("score", pool, "-o", place, "--overwrite", *MODEL, "--scratch", tmp_path)
        assert f"{place} exists and is not a score folder" in done.stderr
    assert set(content(files, "kept/theirs")) == {"notes.txt"}
