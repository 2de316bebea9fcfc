"""URLs in the one form that means the same to everybody who reads them."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import NamedTuple

from vitruvian.errors import DataError
from vitruvian.inference.remote.addresses import Address, read_address

PORTS = {"https": 443, "http": 80}
_LONGEST = 8192
_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE)
_FOREIGN = re.compile(r"[^A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]|%(?![0-9A-Fa-f]{2})")
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:]*)(?::([1-9][0-9]{0,4}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# What `inet_aton` takes for a part of an address: 127, 0177 and 0x7f, with or without dots.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class NotAllowedUrl(DataError):
    """A URL that the server doesn't fetch; says nothing about what is or isn't there."""


class Url(NamedTuple):
    """A URL taken apart: `host` in small letters, an IPv6 address without brackets; `target` is path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def address(self) -> Address | None:
        """The address, where the host is one."""
        return read_address(self.host)

    @property
    def authority(self) -> str:
        """Host and port as the Host header has them."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == PORTS[self.scheme] else f"{name}:{self.port}"

    @property
    def origin(self) -> str:
        """What may be told of the URL: path and query can hold secrets."""
        return f"{self.scheme}://{self.authority}"

    def __str__(self) -> str:
        return self.origin + self.target


def read_url(text: str) -> Url:
    """Return an http or https URL taken apart, without its fragment.

    Raises `NotAllowedUrl` for whatever two readers might read in two ways. Source: RFC 3986, and the host parser of
    the WHATWG URL standard for what it calls an IPv4 address.
    """
    check_characters(text)
    found = _URL.fullmatch(text)
    if found is None:
        raise NotAllowedUrl("the URL doesn't begin with https:// or http://")
    scheme, authority, target = found[1].lower(), found[2], found[3]
    if "@" in authority:
        raise NotAllowedUrl("the URL has a user name in it")
    host, port = read_authority(authority)
    return Url(scheme, host, port or PORTS[scheme], target if target.startswith("/") else f"/{target}")


def check_characters(text: str) -> None:
    """Raise `NotAllowedUrl` unless a text is made of what URLs are made of (RFC 3986), and no longer than they get."""
    if len(text) > _LONGEST:
        raise NotAllowedUrl(f"the URL has more than {_LONGEST} characters")
    if foreign := _FOREIGN.search(text):
        raise NotAllowedUrl(
            f"the URL has {foreign[0]!a}, which no URL has as it is",
            hint="percent-encode it in the path, and write a host as xn--…",
        )


def read_authority(text: str) -> tuple[str, int | None]:
    """Return host and port of `host`, `host:port` or `[address]:port`; raises `NotAllowedUrl`."""
    found = _HOST_AND_PORT.fullmatch(text)
    if found is None or int(found[2] or 1) > 65535:
        raise NotAllowedUrl("the URL's host isn't followed by a port from 1 to 65535, or by nothing")
    return _read_host(found[1]), int(found[2]) if found[2] else None


def _read_host(text: str) -> str:
    if text.startswith("["):
        address = read_address(text[1:-1])
        if not isinstance(address, IPv6Address):
            raise NotAllowedUrl("the URL's host isn't an IPv6 address without a zone")
        return str(address)
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # Short, decimal, octal and hexadecimal forms mean something else to every reader.
        if read_address(name) is None or name != text:
            raise NotAllowedUrl("the URL's host isn't an IPv4 address written as four decimal numbers")
        return name
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise NotAllowedUrl("the URL's host isn't a name that DNS knows")
    return name
