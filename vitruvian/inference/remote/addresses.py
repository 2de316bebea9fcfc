"""Which addresses may be connected to."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# `is_global` follows the list of the Python that runs: 3.11.7 calls 192.0.0.192, fec0::/10, NAT64 and multicast global.
_SPECIAL_IPV4 = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host agent
        "169.254.0.0/16",  # link-local: metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
]
# All else that IPv6 has is local, multicast, unassigned, or an IPv4 address in disguise (mapped, compatible, NAT64).
_UNICAST_IPV6 = IPv6Network("2000::/3")
_SPECIAL_IPV6 = [
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
]
_PRIVATE = [
    ip_network(text)
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "fc00::/7",
    )
]
# Inside private networks, yet never meant: they hand out a machine's credentials.
_METADATA = [
    ip_network(text)
    for text in (
        "100.100.100.200/32",  # Alibaba
        "fd00:42::42/128",  # Scaleway
        "fd00:ec2::/32",  # AWS
        "fd20:ce::254/128",  # Google
    )
]


def read_address(text: str) -> Address | None:
    """Return the address that is written in its one plain form, without a zone; None for all else."""
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Tell whether an address is an ordinary one of the internet, by the registries of IANA.

    Source: IANA's special-purpose address registries (RFC 6890), and IPv6's global unicast space (RFC 4291).
    """
    if isinstance(address, IPv4Address):
        return address.is_global and not _within(address, _SPECIAL_IPV4)
    return address.is_global and address in _UNICAST_IPV6 and not _within(address, _SPECIAL_IPV6)


def may_connect(address: Address, private: Iterable[Network]) -> bool:
    """Tell whether an address may be connected to: a public one, or one of the `private` networks that are meant."""
    return is_public(address) or (_within(address, private) and not _within(address, _METADATA))


def is_private(network: Network) -> bool:
    """Tell whether a network lies within those that anybody may use inside: what may be meant explicitly."""
    return any(network.network_address in other and network.prefixlen >= other.prefixlen for other in _PRIVATE)


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
