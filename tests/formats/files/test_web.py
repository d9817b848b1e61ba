"""URLs that a stranger names reach public hosts alone, through redirects too."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clipdre.errors import InputError
from clipdre.formats.files import web
from clipdre.formats.files.remote import read_ranges
from clipdre.formats.files.storage import identify, open_source
from clipdre.formats.tars.spans import Source

# The libraries behind fsspec close their event loops and sockets late.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
BODY = b"0123456789"
REFUSED = "is on this machine or a private network"


class Server(ThreadingHTTPServer):
    """Serves one file, or redirects to another server; counts its requests."""

    daemon_threads = True

    def __init__(self, host, target=None):
        super().__init__((host, 0), Handler)
        self.target, self.asked = target, 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://{self.server_address[0]}:{self.server_port}/a.tar"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.server.asked += 1
        self.send_response(302 if self.server.target else 200)
        if self.server.target:
            self.send_header("Location", self.server.target)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(BODY)


@pytest.fixture
def serve():
    started = []

    def serve(host="127.0.0.1", target=None):
        started.append(Server(host, target))
        return started[-1]

    yield serve
    for server in started:
        server.shutdown()
        server.server_close()


def reads(url):
    """Ways to reach a URL as a score folder names it."""
    return {
        "identify": lambda: identify(url, public=True),
        "open": lambda: open_source(url, public=True),
        "ranges": lambda: read_ranges(url, [(0, 4)], public=True),
        "check": lambda: Source(url, len(BODY), None, public=True).check(),
    }


@pytest.mark.parametrize("way", list(reads("")))
def test_a_private_host_is_refused_before_any_request(serve, way):
    server = serve()
    with pytest.raises(InputError, match=REFUSED) as caught:
        reads(server.url)[way]()
    assert caught.value.cure == web.TRUST
    assert not server.asked
    # a user may name it
    assert read_ranges(server.url, [(2, 3)]) == [BODY[2:5]]
    assert server.asked


@pytest.mark.parametrize("way", list(reads("")))
def test_a_redirect_to_a_private_host_is_not_followed(serve, monkeypatch, way):
    inside = serve("127.0.0.2")
    outside = serve("127.0.0.1", target=inside.url)
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1")
    with pytest.raises(InputError, match=REFUSED):
        reads(outside.url)[way]()
    assert outside.asked
    assert not inside.asked


def test_a_public_host_is_read(serve, monkeypatch):
    server = serve()
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1")
    assert read_ranges(server.url, [(0, 4), (7, 2)], public=True) == [b"0123", b"78"]
    Source(server.url, len(BODY), None, public=True).check()


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "user:password@127.0.0.1",
        "0.0.0.0",
    ],
)
@pytest.mark.parametrize("protocol", ["http", "https"])
def test_spellings_of_this_machine(protocol, host):
    with pytest.raises(InputError, match=REFUSED) as caught:
        identify(f"{protocol}://{host}:9/a.tar?secret=1", public=True)
    assert "secret" not in str(caught.value)
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0", "[::ffff:127.0.0.1]", "[::1]"])
def test_other_spellings_reach_nothing(serve, host):
    server = serve()
    with pytest.raises(InputError):
        identify(f"http://{host}:{server.server_port}/a.tar", public=True)
    assert not server.asked


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("::ffff:93.184.216.34", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
    ],
)
def test_public_addresses(address, public):
    assert web.is_public(address) == public
