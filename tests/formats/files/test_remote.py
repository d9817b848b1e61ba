"""Remote sources on real servers that fail."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec.asyn
import numpy as np
import pyarrow.parquet as pq
import pytest

from clipdre.config import EmitConfig
from clipdre.emitting.emit import write_tar_folder
from clipdre.emitting.write import write_subset
from clipdre.errors import InputError, ScoresError
from clipdre.formats.files import remote, web
from clipdre.formats.files.remote import identify_remote, read_ranges, redacted, with_retries
from clipdre.formats.files.storage import open_source
from clipdre.pipelines.score import score
from tests.helpers import TINY, read_failures, read_scores, subset_of

# The libraries behind fsspec close their event loops and sockets late.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class Faulty(ThreadingHTTPServer):
    """Serves a folder with range requests, refusing some and cutting some answers short."""

    daemon_threads = True

    def __init__(self, folder, faults, ranges=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.faults, self.ranges = folder, faults, ranges
        self.dice = random.Random(7)
        self.met = {"503": 0, "cut": 0, "served": 0}

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def url(self, name, user=""):
        return f"http://{user}127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        server = self.server
        path = server.folder / Path(self.path.partition("?")[0]).name
        if not path.exists():
            self.send_error(404)
            return
        if server.dice.random() < server.faults:
            server.met["503"] += 1
            self.send_error(503)
            return
        data = path.read_bytes()
        asked = RANGE.match(self.headers.get("Range", "")) if server.ranges else None
        part = data[int(asked[1]) : int(asked[2]) + 1] if asked else data
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {asked[1]}-{asked[2]}/{len(data)}")
        elif server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{hash(data)}"')
        self.end_headers()
        if not body:
            return
        if server.dice.random() < server.faults:
            server.met["cut"] += 1
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
            return
        server.met["served"] += 1
        self.wfile.write(part)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(remote, "WAITS", (0.01,) * 12)
    yield
    fsspec.asyn.reset_lock()


def test_faulty_server_gives_the_same_as_a_disk(pool, scored, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "BUFFER", 64 * 1024)
    monkeypatch.setattr(web, "is_public", lambda address: True)
    with Faulty(pool, faults=0.3) as server:
        urls = [server.url(f"{n:05d}.tar") for n in range(3)]
        manifest = score(urls, tmp_path / "s", TINY)
        assert min(server.met.values()) > 5
        far, near = read_scores(tmp_path / "s", manifest), read_scores(*scored)
        assert far["key"].equals(near["key"])
        assert far["offset"].equals(near["offset"])
        for column in ("similarity", "log_ratio", "kl_text"):
            np.testing.assert_allclose(far[column], near[column], atol=2e-3)
        for name, scores in (("far", (tmp_path / "s", manifest)), ("near", scored)):
            subset = subset_of(scores, where="caption LIKE '%red%'")
            assert 0 < len(subset.selection) < 300
            write_tar_folder(subset, tmp_path / name, EmitConfig())
        tars = [(tmp_path / name / "00000000.tar").read_bytes() for name in ("far", "near")]
        assert tars[0] == tars[1]


def test_secrets_of_a_url_are_in_the_manifest_only(pool, tmp_path):
    with Faulty(pool, faults=0) as server:
        url = server.url("00000.tar?sig=SECRET", user="me:SECRET@")
        manifest = score([url], tmp_path / "s", TINY)
        place = server.url("00000.tar")
        with pytest.raises(ScoresError, match=re.escape(f"hold: 00000 ({place})")):
            score([server.url("00001.tar")], tmp_path / "s", TINY)
    table = read_scores(tmp_path / "s", manifest)
    assert set(table["path"].to_pylist()) == {place}
    assert not any("SECRET" in str(row) for row in table.to_pylist())
    files = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
    holding = [path.name for path in files if b"SECRET" in path.read_bytes()]
    assert holding == ["manifest.json"]  # which has to reach the tars again


def test_a_server_on_this_machine_is_asked_only_if_the_user_names_it(pool, scored, tmp_path):
    """A stranger's score folder may name any server."""
    with Faulty(pool, faults=0) as server:
        urls = [server.url(f"{n:05d}.tar") for n in range(3)]
        manifest = score(urls, tmp_path / "s", TINY)
        selection = subset_of((tmp_path / "s", manifest), by="log_ratio", top=9).selection
        server.met["served"] = 0
        with pytest.raises(InputError, match=r"find http://127.* on this machine .*`shards`"):
            write_subset(selection, tmp_path / "kept")
        assert server.met["served"] == 0
        write_subset(selection, tmp_path / "kept", shards=urls)
        assert server.met["served"] > 0
    write_tar_folder(subset_of(scored, by="log_ratio", top=9), tmp_path / "near", EmitConfig())
    name = "00000000.tar"
    assert (tmp_path / "kept" / name).read_bytes() == (tmp_path / "near" / name).read_bytes()


def test_server_without_ranges_can_be_read(tmp_path):
    data = bytes(range(256)) * 40
    (tmp_path / "a.tar").write_bytes(data)
    with Faulty(tmp_path, faults=0, ranges=False) as server:
        spans = [(0, 5), (100, 7), (10_000, 240)]
        found = read_ranges(server.url("a.tar"), spans)
    assert found == [data[start : start + size] for start, size in spans]


def test_ranges_beyond_the_end_are_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"x" * 100)
    with Faulty(tmp_path, faults=0) as server:
        assert read_ranges(server.url("a.tar"), [(90, 10), (5, 0)]) == [b"x" * 10, b""]
        with pytest.raises(InputError, match=r"cannot read .*: it ends before byte 101") as caught:
            read_ranges(server.url("a.tar"), [(90, 10), (95, 6)])
    assert caught.value.cure == "check the connection and run the same command again"


def test_only_missing_spans_are_requested_again(monkeypatch):
    fsspec.filesystem("memory").pipe_file("/pool/a.bin", bytes(range(100)))
    store, asked = type(fsspec.filesystem("memory")), []
    read = store.cat_ranges

    def fail_first(self, paths, starts, ends, **options):
        asked.append(list(zip(starts, ends, strict=True)))
        found = read(self, paths, starts, ends, **options)
        return [*found[:-1], ConnectionError("reset")] if len(asked) == 1 else found

    monkeypatch.setattr(store, "cat_ranges", fail_first)
    found = read_ranges("memory://pool/a.bin", [(0, 2), (50, 3), (97, 3)])
    assert found == [b"\x00\x01", bytes([50, 51, 52]), bytes([97, 98, 99])]
    assert asked == [[(0, 2), (50, 53), (97, 100)], [(97, 100)]]


class StatusError(Exception):
    """An error as a web server's client raises it."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.status = status


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (StatusError(404), 1),
        (StatusError(403), 1),
        (StatusError(408), 13),
        (StatusError(429), 13),
        (StatusError(503), 13),
        (PermissionError("no"), 1),
        (FileNotFoundError("no"), 1),
        (ConnectionError("reset"), 13),
        (TimeoutError("slow"), 13),
    ],
)
def test_only_temporary_errors_are_retried(error, attempts):
    calls = []

    def fail():
        calls.append(error)
        raise error

    with pytest.raises(InputError, match=rf"cannot read it.*: {error}: check the ") as caught:
        with_retries(fail, "cannot read it")
    assert len(calls) == attempts
    assert caught.value.__cause__ is error


def test_missing_file_caused_by_a_busy_server_is_retried():
    """fsspec reports any failure of a web server as a missing file."""
    calls = []

    def busy_once():
        calls.append(1)
        if len(calls) == 1:
            raise FileNotFoundError("a.tar") from StatusError(503)
        return "content"

    assert with_retries(busy_once, "cannot read it") == "content"


def test_source_of_unknown_size_is_refused(monkeypatch):
    monkeypatch.setattr(remote, "_info", lambda url, public: {"size": None, "ETag": "x"})
    with pytest.raises(InputError, match=r"the server of https://h/a\.tar reports no size"):
        identify_remote("https://u:p@h/a.tar")


def test_unreadable_shard_is_recorded_and_read_by_the_next_run(pool, tmp_path, monkeypatch):
    shutil.copytree(pool, tmp_path / "web")
    with Faulty(tmp_path / "web", faults=0) as server:
        urls = [server.url(f"{n:05d}.tar") for n in range(3)]
        read, broken = remote.read_ranges, [True]

        def breaking(url, spans, public=False):
            if broken[0] and url.endswith("00001.tar"):
                raise InputError("cannot read it, after 6 attempts: 503")
            return read(url, spans, public)

        monkeypatch.setattr(remote, "read_ranges", breaking)
        manifest = score(urls, tmp_path / "s", TINY)
        assert [shard.rows for shard in manifest.shards] == [100, 0, 100]
        (failure,) = read_failures(tmp_path / "s", manifest)
        assert failure["reason"] == "unreadable_shard"
        broken[0] = False
        manifest = score(urls, tmp_path / "s", TINY)
        assert [shard.rows for shard in manifest.shards] == [100, 100, 100]
        assert manifest.samples == 300


def test_missing_file_is_not_retried(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "WAITS", (60.0,))
    with Faulty(tmp_path, faults=0) as server:
        started = time.monotonic()
        with pytest.raises(InputError, match=r"cannot find http://127\.0\.0\.1:\d+/none\.tar"):
            identify_remote(server.url("none.tar"))
        assert time.monotonic() - started < 5


def test_retries_end_with_one_line_without_secrets(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"x" * 100)
    with Faulty(tmp_path, faults=1) as server:
        url = server.url("a.tar?token=SECRET", user="user:SECRET@")
        with pytest.raises(InputError, match="after 13 attempts") as caught:
            open_source(url)
    assert "SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://u:p@h/a.tar", "https://h/a.tar"),
        ("https://h/a.tar?X-Amz-Signature=abc&x=1", "https://h/a.tar"),
        ("404, url=URL('http://u:p@h/a?sig=1') no", "404, url=URL('http://h/a') no"),
        ("s3://bucket/a.tar", "s3://bucket/a.tar"),
    ],
)
def test_secrets_are_redacted(text, expected):
    assert redacted(text) == expected


def test_command_line_reads_and_writes_s3(s3, pool, tmp_path):
    environment = {**os.environ, **s3}
    put = (
        "import sys, s3fs; from pathlib import Path; fs = s3fs.S3FileSystem(); fs.mkdir('pool')\n"
        "[fs.put(str(p), 'pool/' + p.name) for p in Path(sys.argv[1]).glob('*.tar')]"
    )

    def run(*command):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert "SECRETKEY" not in done.stderr
        return done

    assert run(sys.executable, "-c", put, str(pool)).returncode == 0
    clipdre = str(Path(sys.executable).parent / "clipdre")
    shards = "s3://pool/{00000..00002}.tar"
    scored = run(clipdre, "score", shards, "-o", "s", "--model", "clipdre-tiny", "--device", "cpu")
    assert scored.returncode == 0, scored.stderr
    emitted = run(clipdre, "filter", "s", "--by", "kl_text", "--top", "30", "-o", "kept")
    assert emitted.returncode == 0, emitted.stderr
    assert len(pq.read_table(tmp_path / "kept" / "00000000.parquet")) == 30
    there = run(clipdre, "filter", "s", "--by", "kl_text", "--top", "30", "-o", "s3://pool/kept")
    assert (there.returncode, there.stdout) == (0, "s3://pool/kept\n"), there.stderr
    back = run(clipdre, "doctor", "s3://pool/kept/00000000.tar", "--json")
    assert json.loads(back.stdout)["good"] == 30
    fewer = ("filter", "s", "--by", "kl_text", "--top", "20", "--overwrite", "-o")
    refused = run(clipdre, *fewer, "s3://pool")
    assert "s3://pool holds 00000.tar, which the scores were made from" in refused.stderr
    replaced = run(clipdre, *fewer, "s3://pool/kept")
    assert replaced.returncode == 0, replaced.stderr
    look = "import s3fs; print(*sorted(s3fs.S3FileSystem().find('pool/kept')))"
    names = [
        "00000000.parquet",
        "00000000.tar",
        "00000000_stats.json",
        "sizes.json",
        "summary.json",
    ]
    found = run(sys.executable, "-c", look).stdout.split()
    assert found == [f"pool/kept/{name}" for name in names]
    missing = run(clipdre, "score", "s3://pool/none.tar", "-o", "t")
    assert missing.returncode == 1
    assert missing.stderr.startswith("clipdre: error: cannot find s3://pool/none.tar")
