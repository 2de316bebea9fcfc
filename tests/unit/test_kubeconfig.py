"""Whatever a kubeconfig names, or answers at its address, is one clear line."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.apiserver import api_server, use
from tests.apiserver import kubeconfig as kubeconfig_of
from vitruvian.cluster import api, kubeconfig, runs
from vitruvian.cluster.api import Cluster
from vitruvian.cluster.objects import manifest
from vitruvian.doctor.cluster import checks
from vitruvian.doctor.finding import Level
from vitruvian.errors import NotAllowed, NotFound, VitruvianError

UNREADABLE = {
    "binary": b"\xff\xfe\x00",
    "no YAML": b"a: [b",
    "a list": b"- a",
    "a text": b"hello",
    "no context in the list": b"contexts: [null]\ncurrent-context: x",
    "no address": kubeconfig_of("").encode(),
    "another protocol": kubeconfig_of("ftp://x").encode(),
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_kubeconfig_that_is_broken_is_one_line(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_bytes(content)
    use(monkeypatch, tmp_path / "config")
    with pytest.raises(VitruvianError) as refused:
        kubeconfig.choose(None, None)
    assert len(str(refused.value).splitlines()) == 1
    assert kubeconfig.namespace_of() == "default"


@pytest.mark.parametrize("namespace", ["", "..", "?x", "a b", "UPPER", "ü", "a\nb", "x" * 300, "a/b"])
def test_what_cant_be_a_namespace_is_refused(namespace: str) -> None:
    with pytest.raises(VitruvianError, match="can't be a namespace's name"):
        kubeconfig.choose(namespace, None)


def test_a_context_that_isnt_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(kubeconfig_of("https://127.0.0.1:1"))
    use(monkeypatch, tmp_path / "config")
    assert kubeconfig.choose(None, None) == kubeconfig.Chosen("x", "studio")
    with pytest.raises(VitruvianError, match="the kubeconfig has no context 'nope'"):
        kubeconfig.choose(None, "nope")


@contextmanager
def _answering(body: bytes | None, status: int = 200, certificate: Path | None = None) -> Iterator[str]:
    """A server that gives the same answer to everything; None: it drops the connection."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if body is not None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *words: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


ANSWERS = {
    "a page": b"<html></html>",
    "a list": b"[]",
    "nothing in it": b"{}",
    "null": b"null",
    "too deep": b"[" * 100_000,
    "no answer": None,
}


@pytest.mark.parametrize("body", ANSWERS.values(), ids=ANSWERS)
def test_what_is_no_api_server_is_one_line(body: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path / "config")
    with _answering(body) as address:
        (tmp_path / "config").write_text(kubeconfig_of(address))
        with pytest.raises(VitruvianError) as refused:
            Cluster()
        assert address.removeprefix("http://") in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
        found = [check.look() for check in checks(None, None, None)]
        assert any(each.level is Level.error and each.name == "API server" for each in found)


def test_a_page_from_before_the_api_server_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path / "config")
    with _answering(b"<html>\n<h1>Bad gateway</h1>\n</html>", 502) as address:
        (tmp_path / "config").write_text(kubeconfig_of(address))
        with pytest.raises(
            VitruvianError, match=r"the API server answered 502: Bad Gateway; try again later"
        ) as refused:
            Cluster()
    assert len(str(refused.value).splitlines()) == 1


def test_a_certificate_that_isnt_trusted_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    pem = tmp_path / "server.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(["openssl", *words.split(), "-keyout", pem, "-out", pem], check=True, capture_output=True)
    use(monkeypatch, tmp_path / "config")
    with _answering(b"{}", certificate=pem) as address:
        (tmp_path / "config").write_text(kubeconfig_of(address))
        with pytest.raises(VitruvianError, match="the API server's certificate isn't trusted") as refused:
            Cluster()
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["nobody", "", "..", "a/b", "UPPER", "ü", "a\nb", "x" * 100, "x" * 300, "*", "a=b,c"])
def test_a_run_that_isnt_there_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path / "config")
    with api_server() as server:
        (tmp_path / "config").write_text(kubeconfig_of(server.url))
        cluster = Cluster()
        for act in (runs.find, runs.cancel):
            with pytest.raises(NotFound, match="studio: there is no run or classifier") as refused:
                act(cluster, name)
            assert len(str(refused.value)) < 300 and len(str(refused.value).splitlines()) == 1
        assert runs.runs(cluster, name) == []
        with pytest.raises(NotFound, match="nobody-1: the run is gone; somebody cancelled it"):
            list(runs.follow(cluster, "nobody-1"))


WHOLE = {"name": "x", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    "told",
    [
        *({}, [], None, "x", 5, {"metadata": None}, {"metadata": {}}, {"metadata": {**WHOLE, "creationTimestamp": 5}}),
        *({"metadata": WHOLE, "spec": 5}, {"metadata": WHOLE, "status": "x"}, {"metadata": {**WHOLE, "labels": ["x"]}}),
    ],
)
def test_an_object_of_another_shape_is_one_line(told: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path / "config")
    with api_server() as server:
        (tmp_path / "config").write_text(kubeconfig_of(server.url))
        cluster = Cluster()
        known = server.answer
        one, many = ({"apiVersion": "ray.io/v1", "kind": kind} for kind in ("RayJob", "RayJobList"))
        whole = {**one, **told} if isinstance(told, dict) else told
        cases: list[tuple[Callable[[Cluster, str], object], Any]] = [
            *((act, answer) for act in (runs.find, runs.cancel, runs.runs) for answer in (told, whole)),
            *((runs.runs, {**many, **items}) for items in ({"items": [told]}, {"items": 5}, {})),
        ]
        for act, answer in cases:

            def other(method: str, path: str, *rest: Any, answer: Any = answer) -> Any:
                return (200, answer) if "/namespaces/" in path else known(method, path, *rest)

            monkeypatch.setattr(server, "answer", other)
            with pytest.raises(VitruvianError, match="what answers is no API server; check the kubeconfig's"):
                act(cluster, "x")


@pytest.mark.parametrize("verb", ["get", "list"])
def test_a_right_that_is_lacking_is_one_line(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path / "config")
    with api_server() as server:
        (tmp_path / "config").write_text(kubeconfig_of(server.url))
        server.forbidden.add((verb, "rayjobs"))
        cluster = Cluster()
        with pytest.raises(NotAllowed, match=f'cannot {verb} resource "rayjobs"; ask the cluster\'s administrator'):
            runs.find(cluster, "yoga")


def test_a_cluster_without_kuberay_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path / "config")
    with api_server() as server:
        (tmp_path / "config").write_text(kubeconfig_of(server.url))
        server.unknown.add("ray.io/v1")
        cluster = Cluster()
        for act in (runs.find, runs.runs, runs.cancel):
            with pytest.raises(VitruvianError, match=r"the cluster has no RayJob of ray\.io/v1; install KubeRay"):
                act(cluster, "yoga")


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(api, "_SECONDS", (0.2, 0.2))
    use(monkeypatch, tmp_path / "config")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (tmp_path / "config").write_text(kubeconfig_of(f"http://127.0.0.1:{silent.getsockname()[1]}"))
        with pytest.raises(VitruvianError, match="can't be reached"):
            Cluster()


def test_an_empty_name_asks_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = object.__new__(Cluster)
    for name in ("", ".", "..", "a/b", "A"):
        with pytest.raises(NotFound):
            cluster.get("v1", "Pod", name)


@pytest.mark.parametrize("text", ["y", "N", "on", "1e3", "123456789e12", "0x1f", "010", "1_000", "", "~", "2:30", "-1"])
def test_a_text_that_readers_of_yaml_take_for_something_else_is_quoted(text: str) -> None:
    written = manifest([{"env": text}])
    assert written == f'env: "{text}"\n'
    assert yaml.safe_load(written) == {"env": text}
