"""From where a server fetches pictures: what is written, and what a URL is read as."""

from __future__ import annotations

import pytest

from vitruvian.errors import SpecError
from vitruvian.inference.remote.allowed import Allowed
from vitruvian.inference.remote.urls import NotAllowedUrl, Url, read_url

IMAGES = "https://images.example.com/a.jpg"


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("images.example.com", IMAGES),
        ("images.example.com", "https://images.example.com:443/a.jpg"),
        ("images.example.com", "HTTPS://IMAGES.Example.COM./a.jpg"),
        ("Images.Example.com.", IMAGES),
        ("https://images.example.com", IMAGES),
        ("HTTPS://images.example.com:443", IMAGES),
        ("images.example.com:8443", "https://images.example.com:8443/a.jpg"),
        ("http://images.example.com", "http://images.example.com/a.jpg"),
        ("http://images.example.com:9000", "http://images.example.com:9000/a.jpg"),
        ("*.example.com", IMAGES),
        ("*.example.com", "https://a.b.c.example.com/a.jpg"),
        ("http://*.example.com:81", "http://images.example.com:81/"),
        ("xn--bcher-kva.example", "https://xn--bcher-kva.example/a.jpg"),
        ("my_bucket.example.com", "https://my_bucket.example.com/a.jpg"),
        ("93.184.215.14", "https://93.184.215.14/a.jpg"),
        ("[2606:4700::1111]:8443", "https://[2606:4700:0:0::1111]:8443/a.jpg"),
    ],
)
def test_a_host_that_is_written_is_allowed(pattern: str, url: str) -> None:
    assert Allowed.parse([pattern]).names(read_url(url))
    assert Allowed.parse(["other.example.org", pattern]).names(read_url(url))
    assert not Allowed.parse([]).names(read_url(url)) and not Allowed().names(read_url(url))


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("images.example.com", "http://images.example.com/a.jpg"),
        ("images.example.com", "http://images.example.com:443/a.jpg"),
        ("images.example.com", "https://images.example.com:8443/a.jpg"),
        ("images.example.com", "https://example.com/a.jpg"),
        ("images.example.com", "https://x.images.example.com/a.jpg"),
        ("images.example.com", "https://images.example.com.evil.test/a.jpg"),
        ("images.example.com", "https://evilimages.example.com/a.jpg"),
        ("images.example.com", "https://images-example.com/a.jpg"),
        ("images.example.com", "https://evil.test/?images.example.com"),
        ("images.example.com", "https://evil.test/images.example.com"),
        ("images.example.com", "https://evil.test/#images.example.com"),
        ("images.example.com:8443", IMAGES),
        ("http://images.example.com", IMAGES),
        ("http://images.example.com", "https://images.example.com:80/"),
        ("*.example.com", "https://example.com/a.jpg"),
        ("*.example.com", "https://evilexample.com/a.jpg"),
        ("*.example.com", "https://images.example.com.evil.test/a.jpg"),
        ("*.example.com", "http://images.example.com/a.jpg"),
        ("93.184.215.14", "https://93.184.215.15/"),
        ("93.184.215.14", "https://93-184-215-14.example.com/"),
        ("[2606:4700::1111]", "https://[2606:4700::1112]/"),
    ],
)
def test_what_is_not_written_is_not_allowed(pattern: str, url: str) -> None:
    assert not Allowed.parse([pattern]).names(read_url(url))


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        " ",
        "*",
        "*.",
        "*.com",
        "https://*",
        "a.*.example.com",
        "*example.com",
        "*.*.example.com",
        "*.10.0.0.1",
        "images.example.com/pictures",
        "https://images.example.com/",
        "https://images.example.com/pictures",
        "https://user@images.example.com",
        "ftp://images.example.com",
        "://images.example.com",
        "images.example.com:",
        "images.example.com:0",
        "images.example.com:65536",
        "images.example.com:https",
        "images example.com",
        "images..example.com",
        "-images.example.com",
        f"{'a' * 64}.example.com",
        "b\u00fccher.example",
        "2606:4700::1111",
        "[2606:4700::1111",
        "[fe80::1%eth0]",
        "127.1",
        "2130706433",
        "0x7f000001",
        "images.example.com\r\n",
        "10.0.0.0/33",
        "10.1.2.3/8",
        "0.0.0.0/0",
        "::/0",
        "8.8.8.0/24",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "10.0.0.1",
        "http://127.0.0.1:8080",
        "[::1]",
        "[fd00::1]:8443",
        "169.254.169.254",
        "100.100.100.200",
        "0.0.0.0",
        "[64:ff9b::a00:1]",
        "10.0.0.0/8",
    ],
)
def test_a_bad_pattern_is_named_in_one_line_with_what_to_write(pattern: str) -> None:
    with pytest.raises(SpecError) as caught:
        Allowed.parse([pattern])
    line = str(caught.value)
    assert line.isprintable() and line.startswith(pattern.strip()) and caught.value.hint


def test_a_private_host_needs_its_network_too_and_metadata_cannot_be_allowed() -> None:
    with pytest.raises(SpecError, match=r"http://10\.0\.0\.1:9000: isn't a public address; allow 10\.0\.0\.1/32 too"):
        Allowed.parse(["http://10.0.0.1:9000"])
    allowed = Allowed.parse(["http://10.0.0.1:9000", "10.0.0.1/32"])
    assert allowed.names(read_url("http://10.0.0.1:9000/a.jpg"))
    for metadata, network in (("100.100.100.200", "100.64.0.0/10"), ("[fd00:ec2::254]", "fc00::/7")):
        with pytest.raises(SpecError, match="only public and private ones can be"):
            Allowed.parse([f"http://{metadata}", network])


def test_a_url_is_read_as_what_is_asked_for_and_told_without_its_secrets() -> None:
    url = read_url("HTTPS://Images.Example.com.:8443?token=secret/../x#fragment")
    assert url == Url("https", "images.example.com", 8443, "/?token=secret/../x")
    assert url.authority == "images.example.com:8443" and "secret" not in url.origin
    assert read_url("https://[2606:4700:0:0::1111]:443").authority == "[2606:4700::1111]"
    assert str(read_url("http://a.example:80/b%20c?d=%2F")) == "http://a.example/b%20c?d=%2F"


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("https://user:secret@images.example.com/", "the URL has a user name in it"),
        ("https://a\n.example/secret", r"the URL has '\n', which no URL has as it is; percent-encode it in the path"),
        ("ftp://images.example.com/secret", "the URL doesn't begin with https:// or http://"),
        ("https://images.example.com:0/secret", "the URL's host isn't followed by a port from 1 to 65535"),
        ("https://127.1/secret", "the URL's host isn't an IPv4 address written as four decimal numbers"),
        ("https://[::1%251]/secret", "the URL's host isn't an IPv6 address without a zone"),
        ("https://a..b/secret", "the URL's host isn't a name that DNS knows"),
        (f"https://images.example.com/{'secret' * 2000}", "the URL has more than 8192 characters"),
    ],
)
def test_a_refusal_is_one_line_and_repeats_no_secret(url: str, line: str) -> None:
    with pytest.raises(NotAllowedUrl) as caught:
        read_url(url)
    assert str(caught.value).startswith(line) and "secret" not in str(caught.value) and str(caught.value).isprintable()
