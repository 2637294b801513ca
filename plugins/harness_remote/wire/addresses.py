"""Which addresses only this machine reaches."""

from __future__ import annotations

import ipaddress
import socket

__all__ = ["is_loopback", "resolves_to_loopback"]


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is a loopback address or localhost. Another name may be any machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def resolves_to_loopback(host: str) -> bool:
    """Return whether only this machine reaches ``host``: each of its addresses is a loopback address.

    An IPv6 address may be in brackets.

    Raises:
        OSError: ``host`` is no address and no known name.
    """
    addresses = socket.getaddrinfo(host.strip("[]"), None)
    return all(ipaddress.ip_address(str(info[4][0]).partition("%")[0]).is_loopback for info in addresses)
