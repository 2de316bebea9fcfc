"""Which addresses a server may connect to, and which never."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.addresses import EMBEDDED, METADATA, OUTSIDE, PUBLIC, REFUSED, SPECIAL
from vitruvian.inference.remote.addresses import is_private, is_public, may_connect, read_address

PRIVATE = ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")


def test_the_table_has_at_least_two_hundred_addresses() -> None:
    assert len(set(REFUSED)) >= 200 and not set(REFUSED) & set(PUBLIC)


@pytest.mark.parametrize("text", REFUSED)
def test_a_special_address_is_refused(text: str) -> None:
    assert not is_public(ip_address(text)) and not may_connect(ip_address(text), [])


@pytest.mark.parametrize("text", PUBLIC)
def test_an_ordinary_address_may_be_connected_to(text: str) -> None:
    assert is_public(ip_address(text)) and may_connect(ip_address(text), [])


@pytest.mark.parametrize("text", OUTSIDE)
def test_a_special_network_ends_where_the_registry_ends_it(text: str) -> None:
    assert is_public(ip_address(text))


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_no_ipv4_address_is_public_inside_a_special_network(address: IPv4Address) -> None:
    special = any(address in ip_network(network) for network in SPECIAL if ":" not in network)
    assert is_public(address) != special


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_no_ipv6_address_is_public_outside_global_unicast(address: IPv6Address) -> None:
    assert not is_public(address) or int(address) >> 125 == 1


@given(st.sampled_from(SPECIAL), st.data())
def test_any_address_of_a_special_network_is_refused(network: str, data: st.DataObject) -> None:
    place = ip_network(network)
    number = data.draw(st.integers(int(place.network_address), int(place.broadcast_address)))
    assert not is_public(type(place.network_address)(number))


@pytest.mark.parametrize("network", PRIVATE)
def test_a_private_network_opens_itself_and_no_other(network: str) -> None:
    place = ip_network(network)
    assert is_private(place)
    opened = [text for text in REFUSED if may_connect(ip_address(text), [place])]
    assert opened == [text for text in REFUSED if ip_address(text) in place and text not in METADATA]
    assert opened


@pytest.mark.parametrize("text", METADATA)
def test_metadata_is_refused_whatever_is_allowed(text: str) -> None:
    assert not may_connect(ip_address(text), map(ip_network, PRIVATE))


@pytest.mark.parametrize("text", EMBEDDED)
def test_an_ipv4_address_in_disguise_is_refused_whatever_is_allowed(text: str) -> None:
    assert not may_connect(ip_address(text), map(ip_network, PRIVATE))


@pytest.mark.parametrize(
    "network",
    ["0.0.0.0/0", "::/0", "8.8.8.0/24", "169.254.0.0/16", "10.0.0.0/7", "224.0.0.0/4", "64:ff9b::/96", "fe80::/10"],
)
def test_what_is_not_private_cannot_be_meant_as_private(network: str) -> None:
    assert not is_private(ip_network(network))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.0.0.01",
        "127.0.0.1 ",
        "\uff11\uff12\uff17.0.0.1",
        "fe80::1%eth0",
        "::1%1",
        "2606:4700::1111%25",
        "[::1]",
        "1.2.3.4/32",
        "127.0.0.1\x00",
        "example.com",
    ],
)
def test_only_the_plain_form_of_an_address_is_read(text: str) -> None:
    assert read_address(text) is None
