"""A pool that img2dataset downloads from a local server: two sources, and a third later."""

import functools
import json
import os
import subprocess
import sys
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import clipdre
from clipdre.cli.main import app
from clipdre.truth.pool import write_pool

pytest.importorskip("img2dataset", reason="img2dataset is not installed")
EACH, SHARD = 24, 8
TINY = "--model clipdre-tiny --device cpu --workers 2"
DOWNLOAD = """
import sys
from img2dataset import download

if __name__ == "__main__":
    download(
        url_list=sys.argv[1],
        output_folder=sys.argv[2],
        input_format="parquet",
        caption_col="caption",
        save_additional_columns=["punsafe"],
        output_format="webdataset",
        number_sample_per_shard=int(sys.argv[3]),
        image_size=64,
        resize_mode="no",
        processes_count=1,
        thread_count=4,
    )
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def downloaded(web, pool, name, seed):
    """Download a source of the pool: pairs of the truth world, and one image that is gone."""
    folder, address = web
    write_pool(folder / name, EACH, seed, noise={}, shard_size=EACH)
    (tar,) = (folder / name).glob("*.tar")
    with tarfile.open(tar) as archive:
        archive.extractall(folder / name, filter="data")
    images = sorted(path.name for path in (folder / name).glob("*.png"))
    captions = [(folder / name / image).with_suffix(".txt").read_text() for image in images]
    images[3] = "gone.png"
    rows = {
        "url": [f"{address}/{name}/{image}" for image in images],
        "caption": captions,
        "punsafe": [n / EACH for n in range(EACH)],
    }
    pq.write_table(pa.table(rows), folder / f"{name}.parquet")
    script = folder / "download.py"
    script.write_text(DOWNLOAD)
    command = [sys.executable, script, folder / f"{name}.parquet", pool / name, str(SHARD)]
    quiet = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}
    subprocess.run(command, check=True, capture_output=True, env=quiet)


@pytest.fixture(scope="module")
def pool(web, tmp_path_factory):
    pool = tmp_path_factory.mktemp("pool")
    for seed, name in enumerate(("cc3m", "cc12m")):
        downloaded(web, pool, name, seed)
    return pool


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(command):
        result = CliRunner().invoke(app, command.split(), catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return result

    return run


def test_a_pool_of_two_sources_that_grows(web, pool, run, tmp_path):
    run(f"doctor {pool}")
    run(f"score {pool} -o s {TINY}")
    scores = clipdre.open_scores("s")
    names = [f"{source}/{n:05d}" for source in ("cc12m", "cc3m") for n in range(3)]
    assert [shard.name for shard in scores.manifest.shards] == names
    assert len(scores) == 2 * (EACH - 1)
    assert {f"scores/{name}.parquet" for name in names} == {
        str(path.relative_to(tmp_path / "s"))
        for path in (tmp_path / "s" / "scores").rglob("*.parquet")
    }
    # Keys repeat across sources, so sidecars are matched by shard and key.
    found = run(f"filter s --with {pool} --where punsafe<0.5 --format csv -o -").stdout.splitlines()
    assert len(found) == 1 + 2 * (EACH // 2 - 1)
    run("filter s --by log_ratio --top 10 -o kept")
    assert_whole(pool, tmp_path / "kept", 10)

    old = {path: path.stat().st_mtime_ns for path in pool.rglob("*.tar")}
    downloaded(web, pool, "laion", 7)
    assert all(path.stat().st_mtime_ns == modified for path, modified in old.items())
    encoded = {p.stat().st_ino for p in (tmp_path / "s" / "embeddings").rglob("*.npy")}
    run(f"score {pool} -o s {TINY}")
    now = {p.stat().st_ino for p in (tmp_path / "s" / "embeddings").rglob("*.npy")}
    assert encoded < now
    assert len(now) == len(encoded) + 2 * 3
    run(f"score {pool} -o fresh {TINY}")
    assert rows_of("s").equals(rows_of("fresh"))
    assert len(clipdre.open_scores("s")) == 3 * (EACH - 1)


def rows_of(folder):
    columns = ["shard", "key", "caption", "log_ratio", "kl_text"]
    return (
        clipdre.open_scores(folder)
        .dataset()
        .to_table(columns=columns)
        .sort_by([("shard", "ascending"), ("key", "ascending")])
    )


def assert_whole(pool, kept, samples):
    """Every member of the subset is that of its shard; keys that repeat were renamed."""
    (tar,) = kept.glob("*.tar")
    summary = pq.read_table(tar.with_suffix(".parquet"), columns=["shard", "key"]).to_pylist()
    assert len(summary) == samples
    with tarfile.open(tar) as archive:
        members = {m.name: archive.extractfile(m).read() for m in archive}
    contents = {json.loads(d)["sha256"]: d for n, d in members.items() if n.endswith(".json")}
    assert len(contents) == samples
    for row in summary:
        with tarfile.open(pool / f"{row['shard']}.tar") as source:
            original = source.extractfile(f"{row['key']}.json").read()
        assert contents[json.loads(original)["sha256"]] == original
