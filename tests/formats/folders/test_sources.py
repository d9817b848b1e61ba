import os

import pytest

from clipdre.errors import InputError
from clipdre.formats.folders.records import ShardRecord
from clipdre.formats.folders.sources import source_of

CURE = "if you trust it, name the tars yourself with `shards`"


def record(url):
    return ShardRecord(name="a", url=url, nbytes=3, modified="then")


@pytest.mark.parametrize(
    "url",
    [
        "pool/a.tar",
        "/data/a.tar",
        "file:///data/a.tar",
        "https://public.example/a.tar?signature=x",
        "HTTPS://user:password@public.example:8443/a.tar",
        "http://93.184.216.34/a.tar",
        "https://known-to-a-proxy.example/a.tar",
        "s3://bucket/a.tar",
        "gs://bucket/a.tar",
        "abfs://container@account.dfs.core.windows.net/a.tar",
        "az://container/a.tar",
        "hf://datasets/me/pool/a.tar",
    ],
)
def test_files_the_web_and_stores_are_opened(url):
    source = source_of(record(url))
    assert (source.url, source.nbytes, source.modified) == (url, 3, "then")
    assert source.public


@pytest.mark.parametrize(
    "url",
    [
        "simplecache::http://public.example/a.tar",
        "reference::s3://bucket/a.tar",
        "tar://a.tar::https://public.example/b.tar",
        "reference://a.tar",
        "memory://a.tar",
        "ssh://public.example/a.tar",
        "ftp://public.example/a.tar",
        "data://text/plain,x",
        "github://me:repo@main/a.tar",
        "FILE:///etc/passwd",
        "local:///etc/passwd",
        "://a.tar",
    ],
)
def test_other_protocols_and_chains_are_refused(url):
    with pytest.raises(InputError, match="neither a file, nor on the web or in a store") as caught:
        source_of(record(url))
    assert caught.value.cure == CURE


@pytest.mark.parametrize("prefix", ["", "file://"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "circle"])
def test_only_regular_files_are_opened(tmp_path, prefix, kind):
    path = tmp_path / "a.tar"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    with pytest.raises(InputError, match=r"not a regular file|Too many levels"):
        source_of(record(f"{prefix}{path}")).check()
