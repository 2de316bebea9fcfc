"""Which URLs may be fetched: deny by default."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import NamedTuple

from vitruvian.errors import SpecError
from vitruvian.inference.remote.addresses import (
    Address,
    Network,
    is_private,
    is_public,
    may_connect,
    read_address,
)
from vitruvian.inference.remote.urls import (
    PORTS,
    NotAllowedUrl,
    Url,
    read_authority,
)

_FORMS = (
    "write a host such as images.example.com, *.example.com or http://10.1.2.3:9000, or a network such as 10.0.0.0/8"
)


class _Place(NamedTuple):
    scheme: str
    host: str
    port: int
    below: bool
    """Whether the names below `host` are meant, and not `host` itself."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{'*.' if self.below else ''}{host}:{self.port}"

    def holds(self, url: Url) -> bool:
        if (url.scheme, url.port) != (self.scheme, self.port):
            return False
        return url.host.endswith(f".{self.host}") if self.below else url.host == self.host


@dataclass(frozen=True)
class Allowed:
    """The hosts that URLs may name, and the private networks where these may be; without any nothing is allowed."""

    places: tuple[_Place, ...] = ()
    private: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, patterns: Iterable[str]) -> Allowed:
        """Return what is written as hosts (`[scheme://]host[:port]`, https by default) and private networks.

        `*.example.com` means every name below example.com, at any depth. Raises `SpecError`.
        """
        patterns = list(patterns)
        networks = [pattern for pattern in patterns if "/" in pattern and "://" not in pattern]
        private = tuple(_read_network(pattern) for pattern in networks)
        places = tuple(_read_place(pattern, private) for pattern in patterns if pattern not in networks)
        if private and not places:
            raise SpecError("networks alone allow no URL", where=networks[0], hint=_FORMS)
        return cls(places, private)

    def names(self, url: Url) -> bool:
        """Tell whether the URL's scheme, host and port are allowed."""
        return any(place.holds(url) for place in self.places)

    def admits(self, address: Address) -> bool:
        """Tell whether an allowed host may be at an address."""
        return may_connect(address, self.private)


def _read_network(pattern: str) -> Network:
    try:
        network = ip_network(pattern)
    except ValueError as e:
        raise SpecError("is neither a host nor a network without host bits", where=pattern, hint=_FORMS) from e
    if not is_private(network):
        public = is_public(network.network_address)
        hint = (
            "public addresses need no entry"
            if public
            else "only those of 10.0.0.0/8, 192.168.0.0/16, fc00::/7 and the like can be allowed"
        )
        raise SpecError("isn't a private network", where=pattern, hint=hint)
    return network


def _read_place(pattern: str, private: tuple[Network, ...]) -> _Place:
    scheme, mark, rest = pattern.partition("://")
    scheme, rest = (scheme.lower(), rest) if mark else ("https", pattern)
    below = rest.startswith("*.")
    try:
        host, port = read_authority(rest.removeprefix("*."))
    except NotAllowedUrl as e:
        raise SpecError("isn't a host", where=pattern, hint=_FORMS) from e
    if scheme not in PORTS:
        raise SpecError("isn't https or http", where=pattern, hint=_FORMS)
    address = read_address(host)
    if below and ("." not in host or address is not None):
        raise SpecError("means too much", where=pattern, hint="write at least two names behind the *")
    if address is not None and not may_connect(address, private):
        alone = ip_network(address)
        hint = f"allow {alone} too" if may_connect(address, [alone]) else "only public and private ones can be"
        raise SpecError("isn't a public address", where=pattern, hint=hint)
    return _Place(scheme, host, port or PORTS[scheme], below)
