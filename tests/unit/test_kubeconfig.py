"""Whatever a kubeconfig names, or answers at its address, is one clear line."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from vitruvian.cluster import api, kubeconfig
from vitruvian.cluster.api import Cluster
from vitruvian.cluster.objects import manifest
from vitruvian.doctor.cluster import checks
from vitruvian.doctor.finding import Level
from vitruvian.errors import NotFound, VitruvianError


def _config(server: str, **user: str) -> bytes:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "studio"}}],
            "current-context": "x",
        }
    ).encode()


def _use(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    # The client reads KUBECONFIG once, when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))


UNREADABLE = {
    "binary": b"\xff\xfe\x00",
    "no YAML": b"a: [b",
    "a list": b"- a",
    "a text": b"hello",
    "no context in the list": b"contexts: [null]\ncurrent-context: x",
    "no address": _config(""),
    "another protocol": _config("ftp://x"),
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_kubeconfig_that_is_broken_is_one_line(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_bytes(content)
    _use(monkeypatch, tmp_path / "config")
    with pytest.raises(VitruvianError) as refused:
        kubeconfig.choose(None, None)
    assert len(str(refused.value).splitlines()) == 1
    assert kubeconfig.namespace_of() == "default"


@pytest.mark.parametrize("namespace", ["", "..", "?x", "a b", "UPPER", "ü", "a\nb", "x" * 300, "a/b"])
def test_what_cant_be_a_namespace_is_refused(namespace: str) -> None:
    with pytest.raises(VitruvianError, match="can't be a namespace's name"):
        kubeconfig.choose(namespace, None)


def test_a_context_that_isnt_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_bytes(_config("https://127.0.0.1:1"))
    _use(monkeypatch, tmp_path / "config")
    assert kubeconfig.choose(None, None) == kubeconfig.Chosen("x", "studio")
    with pytest.raises(VitruvianError, match="the kubeconfig has no context 'nope'"):
        kubeconfig.choose(None, "nope")


@contextmanager
def _answering(body: bytes | None) -> Iterator[str]:
    """A server that gives the same answer to everything; None: it drops the connection."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if body is not None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *words: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


ANSWERS = {"a page": b"<html></html>", "a list": b"[]", "nothing in it": b"{}", "null": b"null", "no answer": None}


@pytest.mark.parametrize("body", ANSWERS.values(), ids=ANSWERS)
def test_what_is_no_api_server_is_one_line(body: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, tmp_path / "config")
    with _answering(body) as address:
        (tmp_path / "config").write_bytes(_config(address))
        with pytest.raises(VitruvianError) as refused:
            Cluster()
        assert address.removeprefix("http://") in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
        found = [check.look() for check in checks(None, None, None)]
        assert any(each.level is Level.error and each.name == "API server" for each in found)


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(api, "_SECONDS", (0.2, 0.2))
    _use(monkeypatch, tmp_path / "config")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (tmp_path / "config").write_bytes(_config(f"http://127.0.0.1:{silent.getsockname()[1]}"))
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
