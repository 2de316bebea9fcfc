"""What an allowed host's answer becomes: the picture, or one line that says why not."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.certificates import Authority
from tests.sites import PICTURE, Answer, Counting, Site, Traps, redirect, reply, serving, traps
from vitruvian.inference.remote.allowed import Allowed
from vitruvian.inference.remote.fetch import Fetcher, Limits, NotFetched
from vitruvian.inference.remote.urls import NotAllowedUrl

TLS = ssl.create_default_context()
HOST = "images.example.com"
LIMITS = Limits(max_body=1000, max_head=2000, seconds=5.0)


async def here(host: str, port: int) -> Iterable[str]:
    """Say that every name is this machine's."""
    return ["127.0.0.1"]


def fetcher_for(site: Site, scheme: str = "http", limits: Limits = LIMITS, tls: ssl.SSLContext = TLS) -> Fetcher:
    allowed = Allowed.parse([f"{scheme}://{HOST}:{site.port}", "127.0.0.1/32"])
    return Fetcher(allowed, limits, resolve=here, ssl_context=tls)


def fetched(answers: Mapping[str, Answer], limits: Limits = LIMITS, path: str = "/") -> tuple[bytes, Site]:
    """Return what a fetch brings from a server with these answers, and the server."""

    async def fetch() -> tuple[bytes, Site]:
        async with serving(answers) as site:
            return await fetcher_for(site, limits=limits).fetch(f"http://{HOST}:{site.port}{path}"), site

    return asyncio.run(fetch())


def failure(answers: Mapping[str, Answer], limits: Limits = LIMITS) -> tuple[str, Site]:
    """Return the line that a fetch ends with, without the server's own place, and the server."""

    async def fetch() -> tuple[str, Site]:
        async with serving(answers) as site:
            with pytest.raises(NotFetched) as caught:
                await fetcher_for(site, limits=limits).fetch(f"http://{HOST}:{site.port}/?secret")
            return str(caught.value).removeprefix(f"http://{HOST}:{site.port}: "), site

    line, site = asyncio.run(fetch())
    assert line.isprintable() and "secret" not in line
    return line, site


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = reply(b"", content_length=None, transfer_encoding="chunked")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_request_says_what_is_wanted_and_nothing_else(run: Callable[[Awaitable[None]], None]) -> None:
    async def fetch() -> None:
        async with serving({"/a%20b.png?size=1": reply()}) as site:
            url = f"HTTP://Images.Example.COM:{site.port}/a%20b.png?size=1#fragment"
            assert await fetcher_for(site).fetch(url) == PICTURE
            assert site.heads == [
                f"GET /a%20b.png?size=1 HTTP/1.1\r\nHost: {HOST}:{site.port}\r\nUser-Agent: vitruvian\r\n"
                "Accept: image/*, application/octet-stream\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
                "".encode()
            ]

    run(fetch())


@pytest.mark.parametrize(
    "answer",
    [
        reply(content_type="IMAGE/PNG"),
        reply(content_type="image/jpeg; charset=binary"),
        reply(content_type="application/octet-stream"),
        reply(content_type="binary/octet-stream"),
        reply(content_encoding="identity"),
        reply(content_length=f"{len(PICTURE)}, {len(PICTURE)}"),
        reply(set_cookie="a=b", location="http://127.0.0.1/", refresh="0; url=http://127.0.0.1/"),
        reply() + b"what comes after the picture is not read",
        chunked(PICTURE),
        chunked(*(bytes([byte]) for byte in PICTURE)),
        chunked(PICTURE, end=b"0\r\nTrailer: x\r\n\r\n"),
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + reply(),
        reply().replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_a_picture_comes_as_it_was_sent(answer: bytes) -> None:
    assert fetched({"/": answer})[0] == PICTURE


def test_nothing_is_decompressed() -> None:
    packed = gzip.compress(bytes(100_000))
    assert fetched({"/": reply(packed)})[0] == packed


@pytest.mark.parametrize("size", [0, 1, 999, 1000])
def test_a_picture_may_have_as_many_bytes_as_the_limit_says(size: int) -> None:
    assert fetched({"/": reply(bytes(size))})[0] == bytes(size)
    assert fetched({"/": chunked(bytes(size)) if size else chunked()})[0] == bytes(size)


LARGE = "sends more than 1000 bytes"
HEAD = "sends more than 2000 bytes of headers"
STRANGE = "doesn't answer as an HTTP server does"
TYPE = "sends something whose Content-Type isn't image/…"
PACKED = "sends it compressed, unasked"
ENDLESS = "doesn't say where the picture ends, so half of one could pass for it"


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (reply(PICTURE, "404 Not Found"), "answered with status 404"),
        (reply(PICTURE, "500 Oops"), "answered with status 500"),
        (reply(PICTURE, "401 Unauthorized", www_authenticate="Basic"), "answered with status 401"),
        (reply(PICTURE, "206 Partial Content"), "answered with status 206"),
        (reply(b"", "204 No Content", content_length=None), "answered with status 204"),
        (reply(b"", "304 Not Modified"), "answered with status 304"),
        (reply(b"", "300 Multiple Choices", location="/"), "answered with status 300"),
        (reply(b"", "101 Switching Protocols", upgrade="websocket"), STRANGE),
        (reply(PICTURE, "299 Odd"), "answered with status 299"),
        (redirect("/").replace(b"location", b"elsewhere"), "answered with status 302 and no one place to go"),
        (redirect("/\r\nLocation: /b"), "answered with status 302 and no one place to go"),
        (reply(content_length="1001"), LARGE),
        (reply(content_length="99999999999999999999"), LARGE),
        (reply(bytes(1001)), LARGE),
        (chunked(bytes(1001)), LARGE),
        (chunked(bytes(500), bytes(500), b"x"), LARGE),
        (chunked(*[b"x"] * 1001), LARGE),
        (reply(filler="x" * 2000), HEAD),
        (reply(**{f"filler{number}": "x" for number in range(200)}), HEAD),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 200 + reply(), HEAD),
        (b"x" * 3000, HEAD),
        (reply(content_length="100"), f"broke off after {len(PICTURE)} bytes"),
        (chunked(PICTURE, end=b""), f"broke off after {len(PICTURE)} bytes"),
        (chunked(PICTURE, end=b"0\r\n"), f"broke off after {len(PICTURE)} bytes"),
        (chunked(PICTURE, end=b"what\r\n"), f"broke off after {len(PICTURE)} bytes"),
        (chunked(PICTURE, end=b"-1\r\n"), f"broke off after {len(PICTURE)} bytes"),
        (reply(content_length="-1"), STRANGE),
        (reply(content_length="0x10"), STRANGE),
        (reply(content_length="ten"), STRANGE),
        (reply(content_length="10\r\nContent-Length: 11"), STRANGE),
        (reply(transfer_encoding="gzip, chunked"), STRANGE),
        (reply(content_length=None), ENDLESS),
        (reply(content_encoding="gzip"), PACKED),
        (reply(content_encoding="br"), PACKED),
        (reply(content_encoding="identity, gzip"), PACKED),
        (reply(content_encoding=""), PACKED),
        (reply(content_type=None), TYPE),
        (reply(content_type=""), TYPE),
        (reply(content_type="text/html"), TYPE),
        (reply(content_type="application/json"), TYPE),
        (reply(content_type="text/html, image/png"), TYPE),
        (reply(content_type="text/html; image/png"), TYPE),
        (reply(content_type="image/png\r\nContent-Type: text/html"), TYPE),
        (reply(content_type="imagery/png"), TYPE),
        (b"", STRANGE),
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n", STRANGE),
        (b"SSH-2.0-OpenSSH_9.6\r\n", STRANGE),
        (b"+OK redis says secret\r\n", STRANGE),
        (b"<html>", STRANGE),
        (b"HTTP/1.1 200 OK\r\n\r\n", TYPE),
        (b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n", STRANGE),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", STRANGE),
        (b"\x16\x03\x01\x02\x00", STRANGE),
    ],
)
def test_an_answer_that_is_no_picture_is_told_in_one_line(answer: bytes, line: str) -> None:
    assert failure({"/?secret": answer})[0] == line


async def _for_ever(writer: Any, head: bytes, again: bytes, gone: asyncio.Event, pause: float = 0.0) -> None:
    try:
        writer.write(head)
        while True:
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(pause)
    except ConnectionError:
        gone.set()


PNG = reply(b"", content_length=None, transfer_encoding="chunked")


@pytest.mark.parametrize(
    ("head", "again", "pause", "line"),
    [
        (reply(b"", content_length="900"), b"x", 0.01, "brought no picture within 0.5 s"),
        (b"HTTP/1.1 200 OK\r\n", b"x", 0.01, "brought no picture within 0.5 s"),
        (b"", b"", 0.01, "brought no picture within 0.5 s"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05, "brought no picture within 0.5 s"),
        (PNG, b"1\r\nx\r\n", 0.01, "brought no picture within 0.5 s"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.0, HEAD),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", 0.0, HEAD),
        (b"HTTP/1.1 200 OK\r\nA: ", b"a" * 1000, 0.0, HEAD),
        (PNG, b"10\r\n0123456789abcdef\r\n", 0.0, LARGE),
        (PNG, b"1;a long extension of a chunk that nobody reads\r\nx\r\n", 0.0, LARGE),
        (PNG + b"0\r\n", b"a: b\r\n", 0.0, LARGE),
        (PNG.replace(b"200", b"404"), b"1\r\nx\r\n", 0.0, "answered with status 404"),
        (PNG.replace(b"image", b"text"), b"1\r\nx\r\n", 0.0, TYPE),
    ],
)
def test_a_server_that_never_ends_is_left(head: bytes, again: bytes, pause: float, line: str) -> None:
    async def fetch() -> None:
        gone = asyncio.Event()
        answers = {"/": lambda writer: _for_ever(writer, head, again, gone, pause)}
        limits = Limits(max_body=1000, max_head=2000, seconds=0.5 if line.endswith("within 0.5 s") else 60.0)
        async with serving(answers) as site:
            with pytest.raises(NotFetched) as caught:
                await fetcher_for(site, limits=limits).fetch(f"http://{HOST}:{site.port}/")
            assert str(caught.value).endswith(f": {line}")
            if again:
                async with asyncio.timeout(30):
                    await gone.wait()  # The connection is closed, not forgotten.

    asyncio.run(fetch())


@pytest.mark.parametrize("status", ["301 a", "302 b", "303 c", "307 d", "308 e"])
@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/there.png", "/there.png"),
        ("there.png?a=b#c", "/folder/there.png?a=b"),
        ("../there.png", "/there.png"),
        ("?a=b", "/folder/here.png?a=b"),
        (f"//{HOST}:PORT/there.png", "/there.png"),
        (f"http://{HOST.upper()}:PORT/there.png", "/there.png"),
    ],
)
def test_a_redirect_to_an_allowed_place_is_followed(status: str, location: str, path: str) -> None:
    async def fetch() -> None:
        answers: dict[str, Answer] = {path: reply()}
        async with serving(answers) as site:
            answers["/folder/here.png"] = redirect(location.replace("PORT", str(site.port)), status)
            assert await fetcher_for(site).fetch(f"http://{HOST}:{site.port}/folder/here.png") == PICTURE
            assert [head.split(b" ")[1].decode() for head in site.heads] == ["/folder/here.png", path]
            assert len({head.split(b"\r\n", 1)[1] for head in site.heads}) == 1  # No cookie, no referer.

    asyncio.run(fetch())


def test_three_redirects_are_followed_and_no_more() -> None:
    steps: dict[str, Answer] = {"/": redirect("/1"), "/1": redirect("/2"), "/2": redirect("/3"), "/3": reply()}
    picture, site = fetched(steps)
    assert picture == PICTURE and site.connections == 4
    line, site = failure({"/?secret": redirect("/?secret")})
    assert line == "redirects more than 3 times" and site.connections == 4


def test_the_body_of_a_redirect_is_not_read() -> None:
    answer = redirect("/there").replace(b"content-length: 0", b"content-length: 1000000000") + b"x" * 100_000
    assert fetched({"/": answer, "/there": reply()})[0] == PICTURE


def test_redirects_share_one_time_limit() -> None:
    async def slowly(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(redirect("/?secret"))

    limits = Limits(seconds=0.8, max_redirects=1000)
    line, site = failure({"/?secret": slowly}, limits)
    assert line == "brought no picture within 0.8 s" and site.connections <= 3


def test_as_many_fetches_run_at_once_as_the_limit_says() -> None:
    async def fetch() -> None:
        running: set[asyncio.StreamWriter] = set()
        most = 0

        async def slowly(writer: asyncio.StreamWriter) -> None:
            nonlocal most
            running.add(writer)
            most = max(most, len(running))
            await asyncio.sleep(0.05)
            running.remove(writer)
            writer.write(reply())

        async with serving({"/": slowly}) as site:
            fetcher = fetcher_for(site, limits=Limits(at_once=3))
            pictures = await asyncio.gather(*(fetcher.fetch(f"http://{HOST}:{site.port}/") for _ in range(12)))
        assert pictures == [PICTURE] * 12 and most == 3

    asyncio.run(fetch())


def test_a_name_that_dns_never_answers_costs_no_more_than_the_time_limit() -> None:
    async def never(host: str, port: int) -> Iterable[str]:
        await asyncio.Event().wait()
        raise AssertionError

    fetcher = Fetcher(Allowed.parse([HOST]), Limits(seconds=0.1), resolve=never, ssl_context=TLS)
    with pytest.raises(NotFetched, match=r"brought no picture within 0\.1 s"):
        asyncio.run(fetcher.fetch(f"https://{HOST}/"))


def test_an_address_that_refuses_is_passed_over_for_the_next() -> None:
    async def fetch() -> None:
        async with serving({"/": reply()}) as site:
            allowed = Allowed.parse([f"http://{HOST}:{site.port}", "127.0.0.0/8"])
            for answer, tried in ((["127.0.0.9", "127.0.0.1"], 2), (["127.0.0.1", "127.0.0.9"], 1)):
                backend = Counting()

                async def both(host: str, port: int, answer: list[str] = answer) -> Iterable[str]:
                    return answer

                fetcher = Fetcher(allowed, LIMITS, resolve=both, ssl_context=TLS, backend=backend)
                assert await fetcher.fetch(f"http://{HOST}:{site.port}/") == PICTURE
                assert backend.attempts == [(text, site.port) for text in answer[:tried]]

    asyncio.run(fetch())


def test_a_host_that_listens_on_nothing_cannot_be_reached() -> None:
    async def fetch() -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            port = bound.getsockname()[1]
            allowed = Allowed.parse([f"http://127.0.0.1:{port}", "127.0.0.1/32"])
            with pytest.raises(NotFetched, match=rf"http://127\.0\.0\.1:{port}: can't be reached"):
                await Fetcher(allowed, LIMITS, ssl_context=TLS).fetch(f"http://127.0.0.1:{port}/")

    asyncio.run(fetch())


@pytest.mark.parametrize(("host", "network"), [("127.0.0.1", "127.0.0.0/8"), ("[::1]", "::1/128")])
def test_an_address_that_is_written_and_its_network_are_enough(host: str, network: str) -> None:
    async def fetch() -> None:
        async with serving({"/": reply()}, host=host.strip("[]")) as site:
            allowed = Allowed.parse([f"http://{host}:{site.port}", network])
            assert await Fetcher(allowed, LIMITS, ssl_context=TLS).fetch(f"http://{host}:{site.port}/") == PICTURE
            assert f"Host: {host}:{site.port}\r\n".encode() in site.heads[0]

    asyncio.run(fetch())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_the_system_looks_names_up(run: Callable[[Awaitable[None]], None]) -> None:
    async def fetch() -> None:
        async with serving({"/": reply()}) as site:
            allowed = Allowed.parse([f"http://localhost:{site.port}", "127.0.0.0/8", "::1/128"])
            fetcher = Fetcher(allowed, LIMITS, ssl_context=TLS)
            assert await fetcher.fetch(f"http://localhost:{site.port}/") == PICTURE
            fetcher.close()

    run(fetch())


PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def fetch(trapped: Traps) -> None:
        for name in PROXIES:
            monkeypatch.setenv(name, f"http://127.0.0.1:{trapped.port}")
        authority = Authority(tmp_path)
        async with serving({"/": reply()}) as plain, serving({"/": reply()}, tls=authority.server(HOST)) as secure:
            assert await fetcher_for(plain).fetch(f"http://{HOST}:{plain.port}/") == PICTURE
            fetcher = fetcher_for(secure, "https", tls=authority.trusted())
            assert await fetcher.fetch(f"https://{HOST}:{secure.port}/") == PICTURE

    with traps() as trapped:
        asyncio.run(fetch(trapped))
        assert trapped.caught() == []


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_tls_is_for_the_name_though_the_connection_is_to_the_address(
    run: Callable[[Awaitable[None]], None], tmp_path: Path
) -> None:
    async def fetch() -> None:
        authority = Authority(tmp_path)
        async with serving({"/": reply()}, tls=authority.server(HOST)) as site:
            fetcher = fetcher_for(site, "https", tls=authority.trusted())
            assert await fetcher.fetch(f"https://{HOST}:{site.port}/") == PICTURE
            assert site.names == [HOST] and f"Host: {HOST}:{site.port}\r\n".encode() in site.heads[0]

    run(fetch())


def test_a_certificate_of_another_name_or_of_nobody_gets_no_request(tmp_path: Path) -> None:
    async def fetch(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
        async with serving({"/": reply()}, tls=server) as site:
            with pytest.raises(NotFetched) as caught:
                await fetcher_for(site, "https", tls=client).fetch(f"https://{HOST}:{site.port}/")
            assert site.heads == []
            return str(caught.value)

    authority = Authority(tmp_path)
    other = asyncio.run(fetch(authority.server("other.example.com", "127.0.0.1"), authority.trusted()))
    assert f"its certificate isn't trusted: Hostname mismatch, certificate is not valid for '{HOST}'" in other
    unknown = asyncio.run(fetch(authority.server(HOST), TLS))
    assert "its certificate isn't trusted: unable to get local issuer certificate" in unknown


def test_a_server_without_tls_gets_no_request_that_was_meant_for_https() -> None:
    async def fetch() -> None:
        async with serving({"/": reply()}) as site:
            with pytest.raises(NotFetched, match=r"doesn't speak TLS as it should|brought no picture"):
                await fetcher_for(site, "https", Limits(seconds=1.0)).fetch(f"https://{HOST}:{site.port}/")
            assert site.heads == [] and site.connections == 1

    asyncio.run(fetch())


def test_a_redirect_from_http_to_https_is_followed(tmp_path: Path) -> None:
    async def fetch() -> None:
        authority = Authority(tmp_path)
        answers: dict[str, Answer] = {}
        async with serving(answers) as plain, serving({"/": reply()}, tls=authority.server(HOST)) as secure:
            answers["/"] = redirect(f"https://{HOST}:{secure.port}/")
            places = [f"http://{HOST}:{plain.port}", f"{HOST}:{secure.port}", "127.0.0.1/32"]
            fetcher = Fetcher(Allowed.parse(places), LIMITS, resolve=here, ssl_context=authority.trusted())
            assert await fetcher.fetch(f"http://{HOST}:{plain.port}/") == PICTURE

    asyncio.run(fetch())


def test_a_fetch_that_is_cancelled_leaves_no_connection() -> None:
    async def fetch() -> None:
        gone = asyncio.Event()
        answers = {"/": lambda writer: _for_ever(writer, reply(b"", content_length="900"), b"x", gone, 0.02)}
        async with serving(answers) as site:
            running = asyncio.create_task(fetcher_for(site).fetch(f"http://{HOST}:{site.port}/"))
            while not site.heads:
                await asyncio.sleep(0.01)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await gone.wait()

    asyncio.run(fetch())


def test_a_fetcher_without_a_host_fetches_nothing() -> None:
    with pytest.raises(NotAllowedUrl, match=f"this server fetches nothing from https://{HOST}; send the"):
        asyncio.run(Fetcher(Allowed.parse([])).fetch(f"https://{HOST}/"))
