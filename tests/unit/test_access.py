"""Who may ask a server: keys, tokens, limits, other sites' pages, and files that can't be carried out."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from typer.testing import CliRunner

from tests.bundles import make_bundle, picture
from tests.serving import problem, sample, serving
from vitruvian.bundle import Bundle
from vitruvian.cli import app
from vitruvian.errors import SpecError
from vitruvian.inference.access.guard import Guard
from vitruvian.inference.access.keys import KeyRing, add, digest_of, new_key
from vitruvian.inference.access.limits import Buckets
from vitruvian.inference.access.policy import Jwt, RateLimit, group_of, read_policy
from vitruvian.inference.access.tokens import NotValid, Tokens
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.problems import Problem


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


def write(folder: Path, access: dict[str, Any], *keys: dict[str, Any]) -> Path:
    """Write an access file, and a file of keys where there are some."""
    if keys:
        (folder / "keys.yaml").write_text(yaml.safe_dump({"keys": list(keys)}))
        access = {"keys": "keys.yaml", **access}
    (folder / "access.yaml").write_text(yaml.safe_dump(access))
    return folder / "access.yaml"


def entry(key: str, name: str = "ci", **more: Any) -> dict[str, Any]:
    return {"name": name, "sha256": digest_of(key), **more}


def predict(client: TestClient, **headers: str) -> Any:
    return client.post("/predict/image", content=picture("red"), headers=headers)


# Keys


@pytest.mark.parametrize(
    ("method", "path", "group"),
    [
        ("GET", "/health", "health"),
        ("GET", "/v2/health/ready", "health"),
        ("GET", "/metrics", "metrics"),
        ("GET", "/", "page"),
        ("GET", "/docs", "page"),
        ("GET", "/page/main.js", "page"),
        ("GET", "/card", "metadata"),
        ("GET", "/v2/models/yoga", "metadata"),
        ("GET", "/tracks", "metadata"),
        ("POST", "/predict/image", "predict"),
        ("POST", "/v1/embeddings", "predict"),
        ("POST", "/compare", "predict"),
        ("POST", "/health", "health"),
        ("GET", "/health/", "metadata"),
    ],
)
def test_every_request_belongs_to_a_group(method: str, path: str, group: str) -> None:
    assert group_of(path, method) == group


def test_a_key_opens_what_it_is_for_and_probes_need_none(bundle: Bundle, tmp_path: Path) -> None:
    key, other = new_key()[0], new_key()[0]
    path = write(tmp_path, {}, entry(key), entry(other, "watcher", groups=["metrics"]))
    with serving(Predictor.open(bundle), guard=Guard.open(path)) as client:
        assert client.get("/health").status_code == 200
        assert predict(client, Authorization=f"Bearer {key}").json()["label"] == "red"
        assert predict(client, **{"X-API-Key": key}).json()["label"] == "red"
        assert predict(client, authorization=f"bearer  {key} ").status_code == 200
        refused = predict(client)
        assert problem(refused, 401)["type"].endswith("unauthenticated")
        assert refused.headers["www-authenticate"].startswith("Bearer")
        for wrong in (key[:-1], key + "x", "", "vtv_", new_key()[0], "é"):
            headers = {b"authorization": f"Bearer {wrong}".encode("latin-1")}
            problem(client.post("/predict/image", content=picture("red"), headers=headers), 401)
        problem(predict(client, Authorization=f"Basic {key}"), 401)
        problem(predict(client, **{"X-API-Key": other}), 403)
        assert client.get("/metrics", headers={"X-API-Key": other}).status_code == 200
        problem(client.get("/metrics", headers={"X-API-Key": key}), 403)


def test_what_is_public_needs_no_key(bundle: Bundle, tmp_path: Path) -> None:
    path = write(tmp_path, {"public": ["health", "page", "predict"]}, entry(new_key()[0]))
    with serving(Predictor.open(bundle), guard=Guard.open(path)) as client:
        assert predict(client).status_code == 200
        assert client.get("/", headers={"Accept": "text/html"}).status_code == 200
        problem(client.get("/v2/models/yoga"), 401)


def test_an_expired_key_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    key, late = new_key()[0], new_key()[0]
    now = datetime.now(UTC)
    path = write(
        tmp_path,
        {},
        entry(key, expires=(now + timedelta(days=1)).isoformat()),
        entry(late, "late", expires=(now - timedelta(days=1)).isoformat()),
    )
    with serving(Predictor.open(bundle), guard=Guard.open(path)) as client:
        assert predict(client, **{"X-API-Key": key}).status_code == 200
        problem(predict(client, **{"X-API-Key": late}), 401)


def test_keys_are_read_again_when_their_file_changes_and_stay_when_it_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitruvian.inference.access.keys._SECONDS_BETWEEN_LOOKS", 0.0)
    first, second = new_key()[0], new_key()[0]
    write(tmp_path, {}, entry(first))
    ring = KeyRing(tmp_path / "keys.yaml")
    assert ring.find(first)
    write(tmp_path, {}, entry(first), entry(second, "second"))
    assert ring.find(second)
    (tmp_path / "keys.yaml").write_text("keys: [")
    assert ring.find(first) and ring.find(second)
    write(tmp_path, {}, entry(second, "second"))
    assert ring.find(second) and not ring.find(first)
    (tmp_path / "keys.yaml").unlink()
    assert ring.find(second)


def test_the_command_line_makes_keys_that_work_and_keeps_what_else_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"

    def made(name: str) -> Any:
        return CliRunner().invoke(app, ["key", "new", name, "--file", str(path)], env={"COLUMNS": "200"})

    first = made("ci").stdout.strip()
    path.write_text(f"# ours\n{path.read_text()}".replace("- ", "  - "))
    second = made("app").stdout.strip()
    ring = KeyRing(path)
    for key, name in ((first, "ci"), (second, "app")):
        found = ring.find(key)
        assert found is not None and found.name == name
    assert path.read_text().startswith("# ours\n")
    assert path.stat().st_mode & 0o077 == 0
    assert first not in path.read_text()
    for text in (path.read_text(), "keys: [", 'keys: [{name: a, sha256: "' + "0" * 64 + '"}]\n'):
        path.write_text(text)
        assert isinstance(made("ci").exception, SpecError)
        assert path.read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["keys.yaml"]


def test_a_second_key_of_a_name_is_refused_and_told_to_take_another(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    add(path, "app", digest_of("one"))
    with pytest.raises(SpecError, match="a key of this name is there: 'app'; choose another name"):
        add(path, "app", digest_of("two"))


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "é", "a:b", "x" * 101])
def test_a_keys_name_is_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="can't be a key's name; take letters"):
        add(tmp_path / "keys.yaml", name, digest_of("one"))
    assert not list(tmp_path.iterdir())


# Limits


def test_a_key_has_its_own_limit(bundle: Bundle, tmp_path: Path) -> None:
    few, many = new_key()[0], new_key()[0]
    limit = {"requestsPerMinute": 1, "burst": 2}
    path = write(tmp_path, {"rateLimit": {"requestsPerMinute": 6000}}, entry(few, rateLimit=limit), entry(many, "many"))
    with serving(Predictor.open(bundle), guard=Guard.open(path)) as client:
        assert [predict(client, **{"X-API-Key": few}).status_code for _ in range(2)] == [200, 200]
        refused = predict(client, **{"X-API-Key": few})
        assert problem(refused, 429)["type"].endswith("rate-limited")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["ratelimit"].startswith('"default";r=0')
        assert predict(client, **{"X-API-Key": many}).status_code == 200
        assert client.get("/health", headers={"X-API-Key": few}).status_code == 200


@pytest.mark.parametrize("processes", [1, 4])
def test_limits_tell_who_asks_what_each_process_lets_them(bundle: Bundle, tmp_path: Path, processes: int) -> None:
    own, usual = new_key()[0], new_key()[0]
    access = {"rateLimit": {"requestsPerMinute": 600, "burst": 20}, "public": ["health", "metadata"]}
    path = write(tmp_path, access, entry(own, rateLimit={"requestsPerMinute": 6, "burst": 2}), entry(usual, "usual"))
    with serving(Predictor.open(bundle), guard=Guard.open(path, shares=processes)) as client:

        def told(**headers: str) -> Any:
            found = client.get("/limits", headers=headers).json()["rate_limit_per_process"]
            assert found.pop("processes") == processes
            return found

        theirs = {"requests_per_minute": 600 / processes, "burst": 20 / processes}
        assert told() == told(**{"X-API-Key": usual}) == theirs
        at_once = max(1, 2 / processes)
        assert told(**{"X-API-Key": own}) == {"requests_per_minute": 6 / processes, "burst": at_once}
        # It holds: one was taken by asking.
        codes = [predict(client, **{"X-API-Key": own}).status_code for _ in range(int(at_once))]
        assert codes == [200] * (int(at_once) - 1) + [429]


@pytest.mark.parametrize(
    ("processes", "said"),
    [
        (1, "6 requests a minute are allowed, 2 at once"),
        (
            2,
            "6 requests a minute are allowed, 2 at once; each of 2 processes gives its part, this one 3 a minute, "
            "1 at once",
        ),
    ],
)
def test_who_asks_too_often_reads_the_limit_that_was_declared(
    bundle: Bundle, tmp_path: Path, processes: int, said: str
) -> None:
    key = new_key()[0]
    path = write(tmp_path, {}, entry(key, rateLimit={"requestsPerMinute": 6, "burst": 2}))
    with serving(Predictor.open(bundle), guard=Guard.open(path, shares=processes)) as client:
        *_, refused = [predict(client, **{"X-API-Key": key}) for _ in range(3)]
        assert problem(refused, 429)["detail"] == said


def test_without_a_limit_none_is_told(bundle: Bundle, tmp_path: Path) -> None:
    path = write(tmp_path, {"public": ["health", "metadata", "predict"]})
    for guard in (None, Guard.open(path)):
        with serving(Predictor.open(bundle), guard=guard) as client:
            assert client.get("/limits").json()["rate_limit_per_process"] is None


@given(
    st.floats(1, 600),
    st.integers(1, 20),
    st.lists(st.floats(0, 10), min_size=1, max_size=100),
)
@settings(deadline=None)
def test_a_bucket_never_lets_more_in_than_it_says(rate: float, burst: int, pauses: list[float]) -> None:
    now = [0.0]
    buckets, limit = Buckets(lambda: now[0]), RateLimit(requestsPerMinute=rate, burst=burst)
    admitted = 0
    for pause in pauses:
        now[0] += pause
        try:
            buckets.take("somebody", limit)
            admitted += 1
        except Problem as e:
            # Who comes again when it was said is let in.
            now[0] += int(e.headers["Retry-After"])
            buckets.take("somebody", limit)
            admitted += 1
        assert admitted <= burst + now[0] * rate / 60 + 1e-6


# Tokens

ISSUER = "http://127.0.0.1"


class Provider:
    """An identity provider on this machine: shows its keys, signs tokens, counts who asks."""

    def __init__(self) -> None:
        self.asked = 0
        self.working = True
        self.keys: dict[str, tuple[str, Any]] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                if not provider.working:
                    self.send_error(500)
                    return
                if self.path.endswith("openid-configuration"):
                    document: Any = {"jwks_uri": f"{provider.issuer}/keys"}
                else:
                    document = {"keys": [provider.shown(name) for name in provider.keys]}
                body = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, name: str, algorithm: str) -> None:
        made = {
            "RS256": lambda: rsa.generate_private_key(65537, 2048),
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }[algorithm]()
        self.keys[name] = (algorithm, made)

    def shown(self, name: str) -> dict[str, Any]:
        algorithm, key = self.keys[name]
        kind = jwt.get_algorithm_by_name(algorithm)
        return {**json.loads(kind.to_jwk(key.public_key())), "kid": name, "use": "sig"}

    def token(self, name: str, **claims: Any) -> str:
        algorithm, key = self.keys[name]
        usual = {
            "iss": self.issuer,
            "aud": "vitruvian",
            "exp": time.time() + 600,
            "sub": "me",
            "scope": "vitruvian.predict",
        }
        given = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        return jwt.encode(given, key, algorithm, headers={"kid": name})


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.server.shutdown()


def policy(provider: Provider, **more: Any) -> dict[str, Any]:
    return {
        "jwt": {
            "issuer": provider.issuer,
            "audience": "vitruvian",
            "algorithms": ["RS256", "ES256", "EdDSA"],
            "scopes": {"predict": "vitruvian.predict"},
            **more,
        }
    }


def test_tokens_of_the_issuer_are_accepted_and_others_arent(bundle: Bundle, tmp_path: Path, provider: Provider) -> None:
    for name in ("RS256", "ES256", "EdDSA"):
        provider.add(name, name)
    stranger = Provider()
    stranger.add("RS256", "RS256")
    path = write(tmp_path, policy(provider))
    now = time.time()
    with serving(Predictor.open(bundle), guard=Guard.open(path)) as client:

        def ask(token: str) -> Any:
            return predict(client, Authorization=f"Bearer {token}")

        for name in provider.keys:
            assert ask(provider.token(name)).status_code == 200
        assert ask(provider.token("RS256", exp=now - 10)).status_code == 200
        for wrong in (
            provider.token("RS256", exp=now - 60),
            provider.token("RS256", nbf=now + 60),
            provider.token("RS256", aud="another"),
            provider.token("RS256", iss="https://another"),
            provider.token("RS256", exp=None),
            provider.token("RS256", aud=None),
            stranger.token("RS256", iss=provider.issuer),
            provider.token("RS256")[:-4] + "AAAA",
            "a.b.c",
            "junk",
            "x" * 20_000,
        ):
            problem(ask(wrong), 401)
        problem(ask(provider.token("ES256", scope="other")), 403)
    stranger.server.shutdown()


def test_a_public_key_is_no_secret_to_sign_with_and_none_is_no_signature(provider: Provider) -> None:
    provider.add("a", "RS256")
    tokens = Tokens(Jwt.model_validate(policy(provider)["jwt"]))
    claims = {"iss": provider.issuer, "aud": "vitruvian", "exp": time.time() + 600}
    nobody: Any = None
    unsigned = jwt.encode(claims, nobody, "none", headers={"kid": "a"})
    shared = jwt.encode(claims, "x" * 32, "HS256", headers={"kid": "a"})
    for token in (unsigned, shared):
        with pytest.raises(NotValid, match="algorithm"):
            asyncio.run(tokens.claims(token))


def test_a_storm_of_unknown_keys_asks_the_issuer_once(provider: Provider) -> None:
    provider.add("a", "ES256")
    tokens = Tokens(Jwt.model_validate({**policy(provider)["jwt"], "jwks": f"{provider.issuer}/keys"}))
    good = provider.token("a")
    strange = Provider()
    strange.add("unknown", "ES256")
    bad = [strange.token("unknown", n=number) for number in range(50)]

    async def ask() -> list[Any]:
        calls = (tokens.claims(token) for token in [good, *bad])
        return await asyncio.gather(*calls, return_exceptions=True)

    outcomes = asyncio.run(ask())
    assert outcomes[0].subject == "me"
    assert all(isinstance(outcome, NotValid) for outcome in outcomes[1:])
    assert provider.asked == 1
    strange.server.shutdown()


def test_a_new_key_of_the_issuer_is_found_and_an_issuer_that_is_away_harms_nobody(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitruvian.inference.access.tokens._SECONDS_BETWEEN_FETCHES", 0.0)
    provider.add("a", "ES256")
    tokens = Tokens(Jwt.model_validate(policy(provider)["jwt"]))

    async def ask(token: str) -> Any:
        return await tokens.claims(token)

    assert asyncio.run(ask(provider.token("a"))).subject == "me"
    provider.add("b", "RS256")
    assert asyncio.run(ask(provider.token("b"))).subject == "me"
    provider.working = False
    assert asyncio.run(ask(provider.token("a", n=1))).subject == "me"
    provider.add("c", "ES256")
    with pytest.raises(NotValid, match="doesn't show"):
        asyncio.run(ask(provider.token("c")))


# Other sites' pages


def test_other_sites_pages_may_ask_as_far_as_they_are_named(bundle: Bundle, tmp_path: Path) -> None:
    key = new_key()[0]
    path = write(tmp_path, {"cors": {"origins": ["https://app.example.com"]}}, entry(key))
    with serving(Predictor.open(bundle), guard=Guard.open(path)) as client:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        fine = client.options("/predict/image", headers={"Origin": "https://app.example.com", **asked})
        assert fine.status_code == 200
        assert fine.headers["access-control-allow-origin"] == "https://app.example.com"
        other = client.options("/predict/image", headers={"Origin": "https://evil.example.com", **asked})
        assert "access-control-allow-origin" not in other.headers
        answer = predict(client, Origin="https://app.example.com", **{"X-API-Key": key})
        assert answer.headers["access-control-allow-origin"] == "https://app.example.com"


# Files


@pytest.mark.parametrize(
    ("access", "words"),
    [
        ({}, "nobody could predict"),
        ({"key": "keys.yaml"}, "did you mean 'keys'"),
        ({"public": ["all"]}, "public.0"),
        ({"public": ["predict"], "rateLimit": {"requestsPerMinute": 0}}, "rateLimit.requestsPerMinute"),
        ({"jwt": {"issuer": "http://example.com", "audience": "x"}}, "is not https"),
        ({"jwt": {"issuer": "https://example.com"}}, "jwt.audience"),
        ({"jwt": {"issuer": "https://example.com", "audience": "x", "algorithms": ["HS256"]}}, "algorithms"),
        ({"jwt": {"issuer": "https://example.com", "audience": "x", "algorithms": ["none"]}}, "algorithms"),
        ({"public": ["predict"], "cors": {"origins": ["*"], "credentials": True}}, "credentials are not for every"),
    ],
)
def test_an_access_file_that_cant_be_is_refused(tmp_path: Path, access: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        read_policy(write(tmp_path, access))


@pytest.mark.parametrize("text", ["", "- 1", "keys: {", "keys: 3\n"])
def test_a_file_that_is_no_access_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "access.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"access\.yaml"):
        read_policy(tmp_path / "access.yaml")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([{"name": "a", "sha256": "short"}], "sha256"),
        ([entry("x"), entry("y")], "two keys are named 'ci'"),
        ([{**entry("x"), "group": ["predict"]}], "did you mean"),
    ],
)
def test_a_file_of_keys_that_cant_be_is_refused(tmp_path: Path, keys: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Guard.open(write(tmp_path, {}, *keys))


def test_a_missing_file_of_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no such file"):
        Guard.open(write(tmp_path, {"keys": "nowhere.yaml"}))


def test_no_spelling_of_a_path_opens_another_group(bundle: Bundle, tmp_path: Path) -> None:
    key = new_key()[0]
    path = write(tmp_path, {}, entry(key))
    with serving(Predictor.open(bundle), guard=Guard.open(path)) as client:
        for spelling in (
            "/metrics",
            "/metrics%0A",
            "/metrics%0a%0a",
            "/%6detrics",
            "/metrics/",
            "/METRICS",
        ):
            answer = client.get(spelling, headers={"X-API-Key": key})
            assert answer.status_code in (403, 404), spelling
            assert "vitruvian_requests" not in answer.text
    assert group_of("/metrics\n", "GET") == "metrics"


def test_who_is_kept_out_counts_for_the_route_that_was_asked(bundle: Bundle, tmp_path: Path) -> None:
    key = new_key()[0]
    path = write(tmp_path, {}, entry(key, groups=["metrics"], rateLimit={"requestsPerMinute": 1, "burst": 2}))
    with serving(Predictor.open(bundle), guard=Guard.open(path)) as client:
        predict(client)
        predict(client, **{"X-API-Key": key})
        client.get("/nothing/here")
        text = client.get("/metrics", headers={"X-API-Key": key}).text
        assert sample(text, "vitruvian_requests_total", route="/predict/image", code="401") == 1
        assert sample(text, "vitruvian_requests_total", route="/predict/image", code="403") == 1
        assert sample(text, "vitruvian_requests_total", route="other", code="401") == 1
