import os
import socket

import pytest

from clipdre.errors import InputError
from clipdre.formats.folders import sources
from clipdre.formats.folders.records import ShardRecord
from clipdre.formats.folders.sources import source_of

CURE = "if you trust it, name the tars yourself with `shards`"


def record(url):
    return ShardRecord(name="a", url=url, nbytes=3, modified="then")


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """Addresses of hosts, without a name server."""
    known = {
        "public.example": ["93.184.216.34", "2606:2800:220:1::1"],
        "inside.example": ["10.0.0.8"],
        "both.example": ["93.184.216.34", "127.0.0.1"],
        "localhost": ["127.0.0.1"],
    }
    resolve = socket.getaddrinfo

    def answer(host, port, **options):
        if host is None or host[0].isdigit() or ":" in host:
            return resolve(host, port, flags=socket.AI_NUMERICHOST, **options)
        if host not in known:
            raise socket.gaierror(f"{host} is unknown")
        return [(0, 0, 0, "", (address, port)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    sources._is_private.cache_clear()
    yield
    sources._is_private.cache_clear()


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


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:9000",
        "127.0.0.1:8000",
        "127.1",
        "2130706433",
        "0.0.0.0",
        "0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "user@127.0.0.1",
        "inside.example",
        "both.example",
        "",
    ],
)
@pytest.mark.parametrize("protocol", ["http", "https"])
def test_hosts_of_this_machine_and_of_private_networks_are_refused(protocol, host):
    with pytest.raises(InputError, match="on this machine or a private network") as caught:
        source_of(record(f"{protocol}://{host}/a.tar?secret=1"))
    assert caught.value.cure == CURE
    assert "secret" not in str(caught.value)
    assert "user@" not in str(caught.value)


@pytest.mark.parametrize("address", ["::ffff:127.0.0.1", "fe80::1%eth0", "fc00::1", "::1"])
def test_private_addresses_of_version_6(address):
    assert not sources._is_public(address)
    assert sources._is_public("2606:2800:220:1::1")


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
