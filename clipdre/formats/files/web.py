"""Web requests that reach public addresses alone, for URLs that a stranger's file names."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

from clipdre.errors import InputError

if TYPE_CHECKING:
    from aiohttp import AddrInfoType, ClientSession

WEB = ("http", "https")
TRUST = "if you trust it, name the tars yourself with `shards`"


async def public_client(**options: Any) -> ClientSession:
    """Return an HTTP client that connects to public addresses alone.

    Each connection is checked as it is made, so neither a redirect nor a host whose address changes
    leads elsewhere.
    """
    from aiohttp import ClientSession, TCPConnector  # noqa: PLC0415 (it is optional)

    return ClientSession(connector=TCPConnector(socket_factory=public_socket), **options)


def public_socket(address: AddrInfoType) -> socket.socket:
    """Return a socket to connect to an address as `socket.getaddrinfo` describes it.

    Raises
    ------
    InputError
        If the address is of this machine or of a private network.
    """
    family, kind, protocol, _, place = address
    if not is_public(str(place[0])):
        raise InputError("it is on this machine or a private network", TRUST)
    return socket.socket(family, kind, protocol)


def is_public(text: str) -> bool:
    """Return whether an IP address is one of the public internet."""
    address = ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_global
