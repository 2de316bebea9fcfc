"""Keys, certificates and URLs as a server that is started from the command line takes them."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException
from typer.testing import CliRunner

from tests.bundles import picture
from tests.certificates import Authority
from tests.ports import free_port
from tests.processes import serving
from vitruvian.cli import app
from vitruvian.inference.access.keys import digest_of, new_key

CLI = CliRunner(env={"COLUMNS": "300"})


def infer(client: triton.InferenceServerClient, **headers: str) -> Any:
    image = triton.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([picture("red")], dtype=np.object_))
    return client.infer("yoga", [image], headers=headers or None).as_numpy("label")


def test_a_probe_asks_with_a_key_or_says_that_one_is_needed(store: Path, tmp_path: Path) -> None:
    key, digest = new_key()
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": [{"name": "app", "sha256": digest}]}))
    (tmp_path / "access.yaml").write_text(yaml.safe_dump({"keys": "keys.yaml"}))
    with serving(store, "--access", str(tmp_path / "access.yaml")) as (_, address):
        assert " answers: " in CLI.invoke(app, ["probe", address, "--key", key]).stdout
        assert " answers: " in CLI.invoke(app, ["probe", address], env={"VITRUVIAN_KEY": key}).stdout
        for flags, words in (([], "asks for a key; give one"), (["--key", "x"], "doesn't know this key; give one")):
            assert words in str(CLI.invoke(app, ["probe", address, *flags]).exception)


def test_http_and_grpc_speak_tls_and_know_clients_by_their_certificates(store: Path, tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    certificate, key = ours.issue("server")
    mine, stranger = ours.issue("client"), theirs.issue("stranger")
    port = free_port()
    flags = ("--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", ours.path, "--grpc-port", port)
    with serving(store, *map(str, flags)) as (_, address):
        address = address.replace("http://", "https://")

        def ask(chain: tuple[Path, Path] | None) -> httpx.Response:
            context = ssl.create_default_context(cafile=str(ours.path))
            if chain is not None:
                context.load_cert_chain(*chain)
            with httpx.Client(verify=context) as client:
                return client.post(f"{address}/predict/image", content=picture("red"))

        assert ask(mine).json()["predictions"][0]["class_name"] == "red"
        for chain in (None, stranger):
            with pytest.raises((httpx.TransportError, ssl.SSLError)):
                ask(chain)
        with pytest.raises(httpx.TransportError):
            httpx.get(address.replace("https://", "http://"))

        def call(chain: tuple[Path, Path] | None) -> Any:
            files: dict[str, str] = {"root_certificates": str(ours.path)}
            if chain is not None:
                files |= {"certificate_chain": str(chain[0]), "private_key": str(chain[1])}
            with triton.InferenceServerClient(f"localhost:{port}", ssl=True, **files) as client:
                return infer(client)

        assert call(mine) == [b"red"]
        for chain in (None, stranger):
            with pytest.raises(InferenceServerException):
                call(chain)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_renewed_certificate_is_taken_without_a_restart(store: Path, tmp_path: Path, processes: str) -> None:
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    certificate, key = first.issue("server")
    flags = ("--tls-cert", str(certificate), "--tls-key", str(key), "--processes", processes)
    with serving(store, *flags) as (_, address):
        address = address.replace("http://", "https://")
        assert httpx.get(f"{address}/health", verify=ssl.create_default_context(cafile=str(first.path))).is_success
        second.issue("server")
        renewed = ssl.create_default_context(cafile=str(second.path))
        done = threading.Event()
        for _ in range(400):
            try:
                assert httpx.get(f"{address}/health", verify=renewed).is_success
                break
            except httpx.ConnectError:
                done.wait(0.1)
        else:
            pytest.fail("the new certificate isn't shown after 40 seconds")


def test_keys_are_asked_for_over_http_and_grpc_alike(store: Path, tmp_path: Path) -> None:
    key, reader = new_key()[0], new_key()[0]
    entries = [{"name": "app", "sha256": digest_of(key), "rateLimit": {"requestsPerMinute": 1, "burst": 4}}]
    entries.append({"name": "reader", "sha256": digest_of(reader), "groups": ["metadata"]})
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": entries}))
    (tmp_path / "access.yaml").write_text("keys: keys.yaml\n")
    port = free_port()
    flags = ("--access", str(tmp_path / "access.yaml"), "--grpc-port", str(port))
    with serving(store, *flags) as (_, address), triton.InferenceServerClient(f"localhost:{port}") as client:
        assert client.is_server_ready()

        def refusal(**headers: str) -> str:
            with pytest.raises(InferenceServerException) as caught:
                infer(client, **headers)
            return str(caught.value.status())

        assert refusal() == "StatusCode.UNAUTHENTICATED"
        assert refusal(authorization="Bearer vt_wrong") == "StatusCode.UNAUTHENTICATED"
        assert refusal(authorization=f"Bearer {reader}") == "StatusCode.PERMISSION_DENIED"
        assert client.get_model_metadata("yoga", headers={"x-api-key": reader}).name == "yoga"
        assert infer(client, authorization=f"Bearer {key}") == [b"red"]
        answers = [
            httpx.post(f"{address}/predict/image", content=picture("red"), headers={"X-API-Key": key}) for _ in range(5)
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert refusal(authorization=f"Bearer {key}") == "StatusCode.RESOURCE_EXHAUSTED"
        assert httpx.post(f"{address}/predict/image", content=picture("red")).status_code == 401


@pytest.fixture
def site() -> Iterator[str]:
    """Yield the address of a web server with a picture."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = picture("red") if self.path == "/red.png" else b""
            self.send_response(200 if content else 404)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_pictures_are_fetched_from_allowed_hosts_and_from_no_others(store: Path, site: str) -> None:
    with serving(store, "--allow-url", site, "--allow-url", "127.0.0.1/32") as (_, address):

        def ask(url: str) -> httpx.Response:
            return httpx.post(f"{address}/predict", json={"url": url})

        assert ask(f"{site}/red.png").json()["predictions"][0]["class_name"] == "red"
        assert ask(f"{site}/none.png").status_code == 422
        for url in (
            f"{site.replace('127.0.0.1', 'localhost')}/red.png",
            "http://169.254.169.254/",
            f"{address}/health",
        ):
            refused = ask(url)
            assert refused.status_code == 422
            assert refused.headers["content-type"] == "application/problem+json"
            assert "fetches nothing from" in refused.json()["detail"]
    with serving(store) as (_, address):
        assert "switched off" in httpx.post(f"{address}/predict", json={"url": f"{site}/red.png"}).json()["detail"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--access", "{folder}/none.yaml"], "none.yaml"),
        (["--access", "{folder}/nobody.yaml"], "nobody could predict"),
        (["--access", "{folder}/typo.yaml"], "did you mean 'rateLimit'"),
        (["--tls-cert", "{folder}/nobody.yaml"], "go together"),
        (["--tls-cert", "{folder}/nobody.yaml", "--tls-key", "{folder}/nobody.yaml"], "can't be used"),
        (["--allow-url", "10.0.0.0/8"], "networks alone allow no URL"),
        (["--allow-url", "ftp://example.com"], "ftp://example.com"),
    ],
)
def test_what_cant_be_carried_out_is_told_before_anything_is_served(
    store: Path, tmp_path: Path, flags: list[str], words: str
) -> None:
    (tmp_path / "nobody.yaml").write_text("public: [health]\n")
    (tmp_path / "typo.yaml").write_text("public: [predict]\nratelimit: {requestsPerMinute: 1}\n")
    given = [flag.format(folder=tmp_path) for flag in flags]
    done = CLI.invoke(app, ["serve", str(store), "--port", "0", *given])
    assert done.exit_code != 0
    assert words in done.output or words in str(done.exception)
