"""Addresses that a server may and may not connect to; written apart from the code that judges them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

SPECIAL = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24"),
    *("192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    *("224.0.0.0/4", "240.0.0.0/4"),
    *("::/128", "::1/128", "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48"),
    *("100::/64", "100:0:0:1::/64", "400::/6", "1000::/4", "2001::/32", "2001:2::/48", "2001:10::/28", "2001:20::/28"),
    *("2001:30::/28", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20", "4000::/3", "5f00::/16"),
    *("6000::/3", "8000::/3", "a000::/3", "c000::/3", "e000::/4", "f000::/5", "f800::/6", "fc00::/7", "fd00::/8"),
    *("fe00::/9", "fe80::/10", "fec0::/10", "ff00::/8"),
)
"""Networks of IANA's special-purpose registries, unassigned ones, and the cloud's own."""

METADATA = (
    *("169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.169.253", "169.254.0.1"),
    *("100.100.100.200", "168.63.129.16", "192.0.0.192"),
    *("fd00:ec2::254", "fd00:ec2::23", "fd00:ec2::253", "fd20:ce::254", "fd00:42::42", "fe80::a9fe:a9fe"),
)
"""What hands out credentials inside the clouds of AWS, Azure, Google, Alibaba, Oracle, Scaleway and others."""

_INNER = ("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "8.8.8.8")


def _embeddings(address: str) -> list[str]:
    number = int(IPv4Address(address))
    teredo = (0x20010000 << 96) | (0x4136E378 << 64) | (number ^ 0xFFFFFFFF)
    values = (
        0xFFFF << 32 | number,  # mapped
        number,  # compatible
        0xFFFF << 48 | number,  # translated (SIIT)
        0x64FF9B << 96 | number,  # NAT64
        0x64FF9B0001 << 80 | (number >> 16) << 64 | (number & 0xFFFF) << 40,  # NAT64 of one's own, /48
        0x2002 << 112 | number << 80 | 1,  # 6to4
        teredo,  # Teredo, the client's
        0x20010000 << 96 | number << 64,  # Teredo, the server's
    )
    return [str(IPv6Address(value)) for value in values]


EMBEDDED = tuple(dict.fromkeys(text for address in _INNER for text in _embeddings(address) if text not in ("::",)))
"""IPv4 addresses in what IPv6 wraps them in, an ordinary one among them."""


def _samples(network: str) -> list[str]:
    place = ip_network(network)
    first, last = int(place.network_address), int(place.broadcast_address)
    kind = type(place.network_address)
    return [str(kind(number)) for number in {first, min(first + 1, last), (first + last) // 2, last}]


REFUSED = tuple(dict.fromkeys([*(text for network in SPECIAL for text in _samples(network)), *METADATA, *EMBEDDED]))
"""Addresses that are not connected to unless meant explicitly."""

PUBLIC = (
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "93.184.215.14", "151.101.1.140", "52.216.8.11", "223.255.255.255"),
    *("2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450:4001:81b::200e", "2620:fe::fe", "2c0f:fb50::1"),
)
"""Addresses of the internet."""

_BEFORE_AND_AFTER = (
    *("1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0"),
    *("168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0"),
    *("191.255.255.255", "192.0.1.0", "192.0.3.0", "192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0"),
    *("198.17.255.255", "198.20.0.0", "198.51.99.255", "198.51.101.0", "203.0.112.255", "203.0.114.0"),
    *("223.255.255.255", "2001:200::", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::", "2003::"),
    *("2620:4f:7fff:ffff:ffff:ffff:ffff:ffff", "2620:4f:8001::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
)
OUTSIDE = tuple(str(ip_address(text)) for text in _BEFORE_AND_AFTER)
"""The last address before and the first one after a special network."""
