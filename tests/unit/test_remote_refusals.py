"""What a server doesn't fetch: before a name is looked up, or at least before anything is sent."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path

import httpcore
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from tests.addresses import PUBLIC, REFUSED
from tests.certificates import Authority
from tests.sites import Counting, Traps, redirect, reply, serving, traps
from vitruvian.inference.remote.allowed import Allowed
from vitruvian.inference.remote.fetch import Fetcher, Limits, NotFetched
from vitruvian.inference.remote.urls import NotAllowedUrl, Url

TLS = ssl.create_default_context()
HOST = "images.example.com"
SECOND = Limits(seconds=1.0, connect_seconds=1.0)


class Everywhere(Allowed):
    """Every host is allowed: what still isn't fetched is refused for where it is, or for how it is written."""

    def names(self, url: Url) -> bool:
        return True


class Names:
    """DNS that we control; like the system's it takes every form of an IPv4 address that `inet_aton` takes."""

    def __init__(self, answers: Mapping[str, Iterable[str] | Iterator[Iterable[str]]]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Iterable[str]:
        self.asked.append(host)
        answer = self._answers.get(host)
        if answer is None:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
            return [str(entry[4][0]) for entry in found]
        texts = next(answer) if isinstance(answer, Iterator) else answer
        assert not isinstance(texts, str)
        return texts


INNER = Names(
    {
        "localhost": ["127.0.0.1"],
        "localhost.localdomain": ["127.0.0.1", "::1"],
        "ip6-localhost": ["::1"],
        "localtest.me": ["127.0.0.1"],
        "127.0.0.1.nip.io": ["127.0.0.1"],
        "7f000001.example.com": ["127.0.0.1"],
        "kubernetes.default.svc": ["10.96.0.1"],
        "kubernetes.default.svc.cluster.local": ["10.96.0.1"],
        "metadata.google.internal": ["169.254.169.254"],
        "host.docker.internal": ["192.168.65.254"],
        "mixed.example.com": ["93.184.215.14", "127.0.0.1"],
        "xn--bcher-kva.example": ["127.0.0.1"],
        HOST: ["127.0.0.1"],
    }
)


@pytest.fixture(scope="module")
def trapped() -> Iterator[Traps]:
    with traps() as listening:
        yield listening


URLS = (
    # Other schemes, and none.
    *("", "/a.jpg", "a.jpg", "//127.0.0.1:PORT/", "http:", "http:/", "http://", "https://", "http:/127.0.0.1:PORT/"),
    *("http:127.0.0.1:PORT/", "http:///127.0.0.1:PORT/", "http://?x", "http://#x", "http:\\\\127.0.0.1:PORT\\"),
    *("http:/\\127.0.0.1:PORT/", "file:///etc/passwd", "file://127.0.0.1/etc/passwd", "ftp://127.0.0.1:PORT/a.jpg"),
    *("gopher://127.0.0.1:PORT/_GET", "dict://127.0.0.1:PORT/x", "ldap://127.0.0.1:PORT/", "ws://127.0.0.1:PORT/"),
    *("unix:///var/run/docker.sock", "http+unix://%2Fvar%2Frun%2Fdocker.sock/", "jar:http://127.0.0.1:PORT/a!/b"),
    *("javascript:alert(1)", "data:image/png;base64,AAAA", "view-source:http://127.0.0.1:PORT/", "httpx://127.0.0.1/"),
    *("url:http://127.0.0.1:PORT/", "http s://127.0.0.1:PORT/", "xhttp://127.0.0.1:PORT/", "h\u0442tp://127.0.0.1/"),
    # This machine.
    *("http://127.0.0.1:PORT/", "hTTp://127.0.0.1:PORT/", "http://127.0.0.2:PORT/", "http://127.0.0.1:PORT"),
    *("http://127.0.0.1:PORT?a", "http://127.0.0.1:PORT#a", "http://127.1:PORT/", "http://127.0.1:PORT/"),
    *("http://2130706433:PORT/", "http://0x7f000001:PORT/", "http://0X7F000001:PORT/", "http://017700000001:PORT/"),
    *("http://0x7f.0x0.0x0.0x1:PORT/", "http://0177.0.0.1:PORT/", "http://0177.0x0.1:PORT/", "http://127.0.0.01:PORT/"),
    *("http://127.000.000.001:PORT/", "http://00000000177.1:PORT/", "http://127.0.0.1.:PORT/", "http://127.1.:PORT/"),
    *("http://0:PORT/", "http://0.0.0.0:PORT/", "http://0x0:PORT/", "http://00:PORT/", "http://0.0:PORT/"),
    *("http://127.0.0.256:PORT/", "http://127.0.0.0.1:PORT/", "http://4425673729:PORT/", "http://256.1:PORT/"),
    *("http://foo.0x7f:PORT/", "http://foo.1:PORT/", "http://127.0.0.1.0x:PORT/", "http://-127.0.0.1:PORT/"),
    *("http://localhost:PORT/", "http://LOCALHOST:PORT/", "http://localhost.:PORT/", "http://localhost..:PORT/"),
    *("http://.localhost:PORT/", "http://localhost.localdomain:PORT/", "http://ip6-localhost:PORT/"),
    *("http://localtest.me:PORT/", "http://127.0.0.1.nip.io:PORT/", "http://7f000001.example.com:PORT/"),
    *("http://mixed.example.com:PORT/", "http://xn--bcher-kva.example:PORT/", f"http://{HOST}:PORT/"),
    # Letters, digits and dots that look or fold alike, and escapes.
    *("http://\uff11\uff12\uff17.0.0.1:PORT/", "http://127\u30020\u30020\u30021:PORT/", "http://127\uff0e0.0.1:PORT/"),
    *("http://127\uff610\uff610\uff611:PORT/", "http://\u2460\u2461\u2466.0.0.1:PORT/", "http://\u24dbocalhost:PORT/"),
    *("http://loc\u00adalhost:PORT/", "http://local\u200bhost:PORT/", "http://b\u00fccher.example:PORT/"),
    *("http://127.0.0.1\u2025:PORT/", "http://\u0661\u0662\u0667.0.0.1:PORT/", "http://%31%32%37.0.0.1:PORT/"),
    *(
        "http://%6cocalhost:PORT/",
        "http://localhost%2e:PORT/",
        "http://127%2e0%2e0%2e1:PORT/",
        "http://%5b::1%5d:PORT/",
    ),
    *("http://127.0.0.1%00.example.com:PORT/", "http://127.0.0.1%2f.example.com:PORT/", "http://127.0.0.1%0a:PORT/"),
    # IPv6, and IPv4 inside it.
    *("http://[::1]:PORT/", "http://[0:0:0:0:0:0:0:1]:PORT/", "http://[0000::0001]:PORT/", "http://[::]:PORT/"),
    *("http://[::ffff:127.0.0.1]:PORT/", "http://[::ffff:7f00:1]:PORT/", "http://[::127.0.0.1]:PORT/"),
    *("http://[::ffff:0:127.0.0.1]:PORT/", "http://[64:ff9b::127.0.0.1]:PORT/", "http://[64:ff9b:1::7f00:1]:PORT/"),
    *("http://[2002:7f00:1::1]:PORT/", "http://[2001:0:4136:e378:8000:63bf:80ff:fffe]:PORT/", "http://[fec0::1]:PORT/"),
    *("http://[fe80::1]:PORT/", "http://[fe80::1%25lo]:PORT/", "http://[fe80::1%lo]:PORT/", "http://[::1%1]:PORT/"),
    *("http://[::1%2525]:PORT/", "http://[ff02::1]:PORT/", "http://[fd00::1]:PORT/", "http://[100::1]:PORT/"),
    *("http://[::1]x:PORT/", "http://x[::1]:PORT/", "http://[::1:PORT/", "http://::1:PORT/", "http://::1/"),
    *("http://[::1].:PORT/", "http://[[::1]]:PORT/", "http://[]:PORT/", "http://[v1.fe80::a]:PORT/"),
    *("http://[127.0.0.1]:PORT/", "http://[localhost]:PORT/", "http://[::1]@127.0.0.1:PORT/", "http://[::01.0.0.1]/"),
    # What hands out credentials, and what else is inside.
    *("http://169.254.169.254/latest/meta-data/", "http://0xa9fea9fe/", "http://2852039166/", "http://169.254.43518/"),
    *("http://0251.0376.0251.0376/", "http://[::ffff:a9fe:a9fe]/", "http://[64:ff9b::a9fe:a9fe]/"),
    *("http://[fd00:ec2::254]/", "http://[fd20:ce::254]/", "http://100.100.100.200/", "http://192.0.0.192/"),
    *("http://168.63.129.16/", "http://169.254.170.2/", "http://metadata.google.internal/"),
    *("https://kubernetes.default.svc/", "https://kubernetes.default.svc.cluster.local./", "https://10.96.0.1/"),
    *("http://host.docker.internal:PORT/", "http://172.17.0.1:PORT/", "http://192.168.1.1/", "http://100.64.0.1/"),
    *("http://198.18.0.1/", "http://240.0.0.1/", "http://255.255.255.255/", "http://224.0.0.1/", "http://203.0.113.9/"),
    # User names.
    *("http://user@127.0.0.1:PORT/", "http://user:word@93.184.215.14/", f"http://{HOST}@127.0.0.1:PORT/"),
    *(f"http://{HOST}:80@127.0.0.1:PORT/", f"http://127.0.0.1:PORT@{HOST}/", f"http://a@{HOST}@127.0.0.1:PORT/"),
    *("http://@127.0.0.1:PORT/", f"http://:@{HOST}/", f"http://{HOST}%40127.0.0.1:PORT/"),
    *(f"http://{HOST}\\@127.0.0.1:PORT/", f"http://127.0.0.1:PORT\\@{HOST}/", f"http://127.0.0.1:PORT\\.{HOST}/"),
    # Ports.
    *("http://93.184.215.14:0/", "http://93.184.215.14:65536/", "http://93.184.215.14:-1/", "http://93.184.215.14:/"),
    *(
        "http://93.184.215.14:+80/",
        "http://93.184.215.14:0x50/",
        "http://93.184.215.14:080/",
        "http://1.1.1.1:80:PORT/",
    ),
    *("http://1.1.1.1:8\u0660/", "http://1.1.1.1:80 /", "http://1.1.1.1:99999999999999999999/", "http://1.1.1.1:a/"),
    # Characters that no URL has.
    *(" http://127.0.0.1:PORT/", "\thttp://127.0.0.1:PORT/", "\x00http://127.0.0.1:PORT/", "ht\ntp://127.0.0.1:PORT/"),
    *("http://127.0.0.1:PORT/\r\nHost: x", "http://93.184.215.14/ HTTP/1.1\r\nX: y\r\n\r\n", "http://93.184.215.14/\n"),
    *("http://93.184.215.14/\x00", "http://127.0.0.1\t:PORT/", "http://127.0.0.1\x00.example.com/", "http://a b/"),
    *("http://127.0.0.1 :PORT/", "http:// 127.0.0.1:PORT/", f"http://127.0.0.1:PORT {HOST}/", "http://1.1.1.1/a b"),
    *("http://1.1.1.1/%", "http://1.1.1.1/%zz", "http://1.1.1.1/<x>", "http://1.1.1.1/\x7f", "http://1.1.1.1/\ud800"),
    *("\ufeffhttp://127.0.0.1:PORT/", "http://1.1.1.1/\u2028", "http://1.1.1.1/caf\u00e9", "http://1.1.1.1/a\\b"),
    # Names that are none.
    *("http://a..b/", "http://-a.example/", "http://a-.example/", "http://*.example/", "http://a,b/", "http://a;b/"),
    *(
        f"http://{'a' * 64}.example/",
        f"http://{'a.' * 130}example/",
        "http://./",
        "http://../",
        "http://$(id).example/",
    ),
    *(f"http://93.184.215.14/{'a' * 9000}", "http://!/", "http://'/", "http://()/", "http://a=b/", "http://~/"),
)


def refused(
    url: str, allowed: Allowed, names: Names, backend: Counting, limits: Limits = SECOND, tls: ssl.SSLContext = TLS
) -> str:
    """Return the line that refuses a URL by policy."""
    fetcher = Fetcher(allowed, limits, resolve=names, ssl_context=tls, backend=backend)
    try:
        with pytest.raises(NotAllowedUrl) as caught:
            asyncio.run(fetcher.fetch(url))
    finally:
        fetcher.close()
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_the_table_has_at_least_a_hundred_urls() -> None:
    assert len(set(URLS)) == len(URLS) >= 100


@pytest.mark.parametrize("url", URLS, ids=ascii)
def test_a_url_that_means_no_public_place_sends_no_byte(url: str, trapped: Traps) -> None:
    url = url.replace("PORT", str(trapped.port))
    everywhere = Everywhere()
    listed = Allowed.parse([HOST, "*.example.com", f"http://*.example.com:{trapped.port}", f"http://{HOST}"])
    for allowed in (everywhere, listed, Allowed()):
        backend = Counting()
        refused(url, allowed, INNER, backend)
        assert backend.attempts == [] and trapped.caught() == []


def test_the_traps_catch_whoever_connects(trapped: Traps) -> None:
    # The controls of the test above: the system does connect to such hosts, and a fetch that is allowed to does too.
    for host in ("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "localhost", "127.0.0.2", "::1"):
        socket.create_connection((host, trapped.port)).close()
        assert len(trapped.caught()) == 1
    allowed = Allowed.parse([f"http://127.0.0.1:{trapped.port}", "127.0.0.1/32"])
    fetcher = Fetcher(allowed, Limits(seconds=0.3), resolve=INNER, ssl_context=TLS)
    with pytest.raises(NotFetched, match=r"brought no picture within 0\.3 s"):
        asyncio.run(fetcher.fetch(f"http://127.0.0.1:{trapped.port}/a.jpg"))
    assert trapped.caught()[0].startswith(b"GET /a.jpg HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.test/",
        f"https://{HOST}.evil.test/",
        f"https://evil{HOST}/",
        f"https://{HOST}:8443/",
        f"http://{HOST}/",
        "https://93.184.215.14/",
        f"https://evil.test/{HOST}",
        f"https://evil.test?@{HOST}/",
        f"https://evil.test#@{HOST}/",
    ],
)
def test_a_host_that_is_not_allowed_is_not_even_looked_up(url: str) -> None:
    names, backend = Names({}), Counting(connecting=False)
    assert "this server fetches nothing from http" in refused(url, Allowed.parse([HOST]), names, backend)
    assert names.asked == [] and backend.attempts == []


ANSWERS = (
    *([text] for text in REFUSED),
    *(["93.184.215.14", text] for text in REFUSED),
    *([text, "2606:4700:4700::1111", "93.184.215.14"] for text in REFUSED),
    [],
    ["fe80::1%lo"],
    ["2606:4700:4700::1111%lo"],
    ["93.184.215.14", ""],
    ["127.1"],
    ["93.184.215.14", "0x7f000001"],
    ["93.184.215.14", "localhost"],
    ["93.184.215.14\x00"],
    ["/var/run/docker.sock"],
)


def test_an_answer_of_dns_with_one_address_that_is_not_public_sends_no_byte(trapped: Traps) -> None:
    assert len(ANSWERS) >= 800
    backend = Counting()
    names = Names({HOST: iter(ANSWERS)})
    url, allowed = f"http://{HOST}:{trapped.port}/", Allowed.parse([f"http://{HOST}:{trapped.port}"])
    lines = {refused(url, allowed, names, backend) for _ in ANSWERS}
    assert lines == {f"http://{HOST}:{trapped.port}: has no address that this server may fetch from"}
    assert len(names.asked) == len(ANSWERS)
    assert backend.attempts == [] and trapped.caught() == []


def test_a_chain_of_names_ends_where_it_ends(trapped: Traps) -> None:
    # What `getaddrinfo` gives for a chain of CNAMEs: the last one's addresses.
    chain = {HOST: "cdn.example.net", "cdn.example.net": "edge.example.org", "edge.example.org": "localhost"}

    async def follow(host: str, port: int) -> Iterable[str]:
        while host in chain:
            host = chain[host]
        return await INNER(host, port)

    backend = Counting()
    allowed = Allowed.parse([f"http://{HOST}:{trapped.port}"])
    fetcher = Fetcher(allowed, SECOND, resolve=follow, ssl_context=TLS, backend=backend)
    with pytest.raises(NotAllowedUrl, match="has no address"):
        asyncio.run(fetcher.fetch(f"http://{HOST}:{trapped.port}/"))
    assert backend.attempts == [] and trapped.caught() == []


def test_the_system_resolver_is_believed_no_more(trapped: Traps) -> None:
    backend = Counting()
    fetcher = Fetcher(Everywhere(), SECOND, ssl_context=TLS, backend=backend)
    for host in ("localhost", "LocalHost."):
        with pytest.raises(NotAllowedUrl, match="has no address"):
            asyncio.run(fetcher.fetch(f"http://{host}:{trapped.port}/"))
    fetcher.close()
    assert backend.attempts == [] and trapped.caught() == []


@pytest.mark.parametrize("answer", [["93.184.215.14"], ["2606:4700:4700::1111", "93.184.215.14"], list(PUBLIC)])
def test_the_connection_goes_to_the_addresses_that_were_checked_and_never_to_a_name(answer: list[str]) -> None:
    names, backend = Names({HOST: answer}), Counting(connecting=False)
    fetcher = Fetcher(Allowed.parse([HOST]), SECOND, resolve=names, ssl_context=TLS, backend=backend)
    with pytest.raises(NotFetched, match=f"https://{HOST}: can't be reached"):
        asyncio.run(fetcher.fetch(f"https://{HOST}/a.jpg"))
    assert backend.attempts == [(text, 443) for text in answer] and names.asked == [HOST]


def test_a_name_that_moves_inside_after_the_check_is_not_asked_again(trapped: Traps) -> None:
    answers = iter([["93.184.215.14"], ["127.0.0.1"], ["93.184.215.14"], ["127.0.0.1"]])
    names, backend = Names({HOST: answers}), Counting(connecting=False)
    allowed = Allowed.parse([f"http://{HOST}:{trapped.port}"])
    fetcher = Fetcher(allowed, SECOND, resolve=names, ssl_context=TLS, backend=backend)
    for kind in (NotFetched, NotAllowedUrl, NotFetched, NotAllowedUrl):
        with pytest.raises(kind):
            asyncio.run(fetcher.fetch(f"http://{HOST}:{trapped.port}/"))
    assert backend.attempts == [("93.184.215.14", trapped.port)] * 2 and len(names.asked) == 4


def test_a_name_that_moves_inside_between_two_hops_is_caught_at_the_second(trapped: Traps) -> None:
    async def fetch() -> None:
        async with serving({"/": redirect("/again"), "/again": reply()}) as site:
            names = Names({HOST: iter([["127.0.0.1"], ["127.0.0.2"]])})
            allowed = Allowed.parse([f"http://{HOST}:{site.port}", "127.0.0.1/32"])
            backend = Counting()
            fetcher = Fetcher(allowed, SECOND, resolve=names, ssl_context=TLS, backend=backend)
            with pytest.raises(NotAllowedUrl, match="has no address"):
                await fetcher.fetch(f"http://{HOST}:{site.port}/")
            assert backend.attempts == [("127.0.0.1", site.port)] and site.connections == 1

    asyncio.run(fetch())


class _Elsewhere(Counting):
    """A network that leads somewhere else than asked, as a rewritten route would."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    async def connect_tcp(self, host: str, port: int, *rest: object, **more: object) -> httpcore.AsyncNetworkStream:
        return await super().connect_tcp("127.0.0.1", self._port)


@pytest.mark.parametrize("host", ["http://93.184.215.14", "http://127.0.0.1:9", "http://127.0.0.2:PORT"])
def test_a_connection_that_ends_elsewhere_is_closed_unused(host: str, trapped: Traps) -> None:
    host = host.replace("PORT", str(trapped.port))
    allowed = Allowed.parse([host, "127.0.0.0/8"])
    assert "has no address that this server may" in refused(f"{host}/", allowed, INNER, _Elsewhere(trapped.port))
    assert trapped.caught() == [b""]


def test_a_refusal_tells_nothing_of_what_is_inside(trapped: Traps) -> None:
    """An open port, a closed one, a host that isn't there, metadata and a name that isn't: all in the same words."""
    inside: tuple[list[str] | None, ...] = (
        ["127.0.0.1"],
        ["127.0.0.3"],
        ["10.255.255.1"],
        ["169.254.169.254"],
        ["::1"],
        ["fd00::1"],
        [],
        None,
    )
    url, allowed = f"http://{HOST}:{trapped.port}/", Allowed.parse([f"http://*.example.com:{trapped.port}"])
    lines = {
        refused(url, allowed, Names({HOST: answer} if answer is not None else {}), Counting()) for answer in inside
    }
    assert len(lines) == 1 and trapped.caught() == []


LOCATIONS = (
    *(
        "http://127.0.0.1:PORT/",
        "http://127.0.0.2:PORT/",
        "//127.0.0.1:PORT/",
        "//127.0.0.2:PORT",
        "http://[::1]:PORT/",
    ),
    *("http://localhost:PORT/", "http://2130706433:PORT/", "http://0x7f.1:PORT/", "http://0:PORT/", "https://HOST/"),
    *("http://HOST:PORT/", "//HOST:PORT/", "http://HOST/", "http://HOST:SITE@127.0.0.1:PORT/", "http://u@HOST:SITE/"),
    *("http://HOST:SITE\\@127.0.0.1:PORT/", "/\\127.0.0.1:PORT/", "\\\\127.0.0.1:PORT/", "http:\\\\127.0.0.1:PORT/"),
    *(
        "///127.0.0.1:PORT/",
        "http:/a.jpg",
        "http:a.jpg",
        "http:///127.0.0.1:PORT/",
        "http://169.254.169.254/latest/",
        "http://evil.test/",
    ),
    *("http://93.184.215.14/", "file:///etc/passwd", "ftp://127.0.0.1:PORT/", "gopher://127.0.0.1:PORT/_x"),
    *("javascript:alert(1)", "data:image/png;base64,AA", "http://inside.example.com:SITE/", "http://HOST.:PORT/"),
    *(
        "http://[",
        "http://[::1",
        "http://HOST:99999/",
        "http://HOST:SITE/\tx",
        "http://\x7f/",
        "http://caf\xe9.example/",
    ),
    *(
        "http://%31%32%37.0.0.1:PORT/",
        "http://HOST:SITE/ x",
        "HTTP://127.0.0.1:PORT",
        "//user@HOST:SITE/a",
        "/\tx",
        "/%zz",
    ),
)


@pytest.mark.parametrize("location", LOCATIONS, ids=ascii)
def test_a_redirect_leads_nowhere_that_could_not_be_asked_for(location: str, trapped: Traps) -> None:
    async def fetch() -> None:
        answers = {"/": b""}
        async with serving(answers) as site:
            to = location.replace("PORT", str(trapped.port)).replace("SITE", str(site.port)).replace("HOST", HOST)
            answers["/"] = redirect("LOCATION").replace(b"LOCATION", to.encode("latin-1"))
            names = Names({HOST: ["127.0.0.1"], "inside.example.com": ["127.0.0.2"], "localhost": ["127.0.0.1"]})
            places = [f"http://{HOST}:{site.port}", f"http://inside.example.com:{site.port}", "127.0.0.1/32"]
            backend = Counting()
            fetcher = Fetcher(Allowed.parse(places), SECOND, resolve=names, ssl_context=TLS, backend=backend)
            with pytest.raises((NotAllowedUrl, NotFetched)) as caught:
                await fetcher.fetch(f"http://{HOST}:{site.port}/")
            assert str(caught.value).isprintable() and "127.0.0" not in str(caught.value)
            assert backend.attempts == [("127.0.0.1", site.port)] and site.connections == 1

    asyncio.run(fetch())
    assert trapped.caught() == []


def test_a_redirect_from_https_to_http_is_not_followed(tmp_path: Path, trapped: Traps) -> None:
    async def fetch() -> None:
        authority = Authority(tmp_path)
        to = redirect(f"http://{HOST}:{trapped.port}/")
        async with serving({"/": to}, tls=authority.server(HOST)) as site:
            places = [f"{HOST}:{site.port}", f"http://{HOST}:{trapped.port}", "127.0.0.1/32"]
            fetcher = Fetcher(Allowed.parse(places), SECOND, resolve=INNER, ssl_context=authority.trusted())
            with pytest.raises(NotAllowedUrl, match="redirects to where this server fetches nothing from"):
                await fetcher.fetch(f"https://{HOST}:{site.port}/")
            assert len(site.heads) == 1

    asyncio.run(fetch())
    assert trapped.caught() == []


# Pieces that URL readers disagree about, to be put together in every way.
_HOSTS = (
    *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.1", "0", "localhost", "[::1]", "[::ffff:127.0.0.1]"),
    *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1%25lo]", "169.254.169.254", "10.0.0.1", HOST, "a.example.com"),
    *("b.example.com", "\uff11\uff12\uff17.0.0.1", "127\u30020.0.1", "%31%32%37.0.0.1", *PUBLIC, "", ".", "0x", "1e3"),
    *(f"[{text}]" for text in PUBLIC if ":" in text),
)
_GLUE = (
    *("", "/", "//", "\\", "@", ":", ":80", ":@", "#", "?", ".", "..", "%", "%00", "%2f", "%40", "\x00", "\r\n", "\t"),
    *(" ", "[", "]", "\u3002", "\uff0f", "\u200b", "http://", "https:", "user:word@", ":8080", "/../", "a", "x.jpg"),
)
_SCHEMES = st.sampled_from(
    ("http://", "https://", "http://", "HTTPS://", "http:", "//", "ftp://", "http:/\\", "http:\\\\", "")
)
_NASTY = st.builds(
    lambda scheme, parts: scheme + "".join(parts),
    _SCHEMES,
    st.lists(st.sampled_from(_HOSTS) | st.sampled_from(_GLUE) | st.text(max_size=2), max_size=6),
) | st.builds(
    lambda scheme, before, host, after: scheme + before + host + after,
    _SCHEMES,
    st.just("") | st.sampled_from(_GLUE),
    st.sampled_from(_HOSTS),
    st.sampled_from(("", "/", ":8080/a.jpg")) | st.sampled_from(_GLUE),
)
_ADDRESSES = st.lists(st.sampled_from(PUBLIC) | st.sampled_from(REFUSED), max_size=3)


def test_no_url_of_nasty_pieces_ever_connects_to_an_address_that_is_not_public() -> None:
    connected: list[str] = []

    @settings(max_examples=1500)
    @given(_NASTY, _ADDRESSES, _ADDRESSES)
    @example("https://b.example.com/", [], [])
    def try_one(url: str, first: list[str], second: list[str]) -> None:
        names = Names({HOST: first, "a.example.com": second, "b.example.com": PUBLIC, "localhost": ["127.0.0.1"]})
        backend = Counting(connecting=False)
        fetcher = Fetcher(Everywhere(), SECOND, resolve=names, ssl_context=TLS, backend=backend)
        try:
            with pytest.raises((NotAllowedUrl, NotFetched)) as caught:
                asyncio.run(fetcher.fetch(url))
        finally:
            fetcher.close()
        event(type(caught.value).__name__)
        assert str(caught.value).isprintable()
        assert {host for host, _ in backend.attempts} <= set(PUBLIC)
        assert (caught.type is NotFetched) == bool(backend.attempts)
        connected.extend(host for host, _ in backend.attempts)

    try_one()
    assert set(connected) == set(PUBLIC)  # Or nothing was tried.


@given(st.sampled_from(("10.0.0.0/8", "127.0.0.0/8", "192.168.0.0/16", "fc00::/7", "::1/128")), _ADDRESSES)
def test_an_allowed_network_opens_no_address_outside_it(network: str, answer: list[str]) -> None:
    names, backend = Names({HOST: answer}), Counting(connecting=False)
    fetcher = Fetcher(Allowed.parse([HOST, network]), SECOND, resolve=names, ssl_context=TLS, backend=backend)
    with pytest.raises((NotAllowedUrl, NotFetched)):
        asyncio.run(fetcher.fetch(f"https://{HOST}/"))
    for host, _ in backend.attempts:
        assert host in PUBLIC or ip_address(host) in ip_network(network)
