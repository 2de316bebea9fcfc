"""A hub for models on this machine: what of the Hugging Face hub's API a push speaks, over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

TOKEN = "hf_of_the_studio"
OWNER = "studio"
_LARGE = (".onnx", ".npy", ".png", ".safetensors")


@dataclass
class Repository:
    """Branches with their commits, from the first; a commit is all of its files."""

    private: bool
    branches: dict[str, list[dict[str, bytes]]] = field(default_factory=lambda: {"main": [{".gitattributes": b""}]})
    messages: list[str] = field(default_factory=list)

    def sha(self, branch: str) -> str:
        told = [
            (name, hashlib.sha1(content).hexdigest()) for name, content in sorted(self.branches[branch][-1].items())
        ]
        return hashlib.sha1(repr((len(self.branches[branch]), told)).encode()).hexdigest()


@dataclass
class Hub:
    """What was pushed; every request as `METHOD /path`."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """What was uploaded beside the commits, by its SHA-256."""
    requests: list[str] = field(default_factory=list)
    meanwhile: bool = False
    """Somebody else commits before each commit."""
    instead: dict[str, tuple[int, bytes] | None] = field(default_factory=dict)
    """Other answers to paths with a word in them: a status and a body, or silence."""
    over: threading.Event = field(default_factory=threading.Event)

    def settings(self, home: Path) -> dict[str, str]:
        """Return the variables that lead a process here; its copies lie in a folder."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN}


@contextmanager
def hub() -> Iterator[Hub]:
    """Run a hub that lets `TOKEN` write below `OWNER`."""
    it = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": it}))
    it.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield it
    finally:
        it.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def _do(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(f"{self.command} {path}")
        body = self._body()
        word = next((each for each in self.hub.instead if each in path), None)
        if word is not None:
            self._otherwise(self.hub.instead[word])
        elif path.startswith("/large/"):
            assert hashlib.sha256(body).hexdigest() == path.removeprefix("/large/")
            self.hub.large[path.removeprefix("/large/")] = body
            self._answer(200, {})
        elif self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials in Authorization header"})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            errors = faults(json.loads(body)["content"])
            self._answer(400 if errors else 200, {"errors": [{"message": each} for each in errors], "warnings": []})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)/(.+))?", path):
            self._about(found[1], found[2] or "revision", found[3] or "main", body)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._answer(
                200, {"transfer": "basic", "objects": [self._upload(one) for one in json.loads(body)["objects"]]}
            )
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path):
            self._file(self.hub.repositories[found[1]], found[2], found[3])
        else:
            self._answer(404, {"error": "Not Found"})

    def _otherwise(self, answer: tuple[int, bytes] | None) -> None:
        if answer is None:
            self.hub.over.wait(60)
            self.close_connection = True
        else:
            self._send(*answer, {"Content-Type": "application/json"})

    do_GET = do_HEAD = do_POST = do_PUT = _do

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != OWNER:
            what = f'You don\'t have the rights to create a model under the namespace "{asked["organization"]}"'
            self._answer(403, {"error": what})
            return
        known = name in self.hub.repositories
        if not known:
            self.hub.repositories[name] = Repository(asked.get("visibility") == "private")
        self._answer(409 if known else 200, {"url": f"{self.hub.url}/{name}"})

    def _about(self, name: str, what: str, branch: str, body: bytes) -> None:
        there = self.hub.repositories.get(name)
        if there is None:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif what == "branch":
            known = branch in there.branches
            there.branches.setdefault(branch, there.branches["main"][:1])
            self._answer(409 if known else 200, {})
        elif what == "revision":
            files = [{"rfilename": each} for each in there.branches[branch][-1]]
            self._answer(200, {"id": name, "sha": there.sha(branch), "private": there.private, "siblings": files})
        elif what == "preupload":
            self._answer(200, {"files": [self._mode(there, branch, one["path"]) for one in json.loads(body)["files"]]})
        else:
            self._commit(name, there, branch, [json.loads(line) for line in body.splitlines()])

    def _mode(self, there: Repository, branch: str, path: str) -> dict[str, Any]:
        content, large = there.branches[branch][-1].get(path), path.endswith(_LARGE)
        oid = None
        if content is not None:
            git = hashlib.sha1(b"blob %d\0" % len(content) + content)
            oid = (hashlib.sha256(content) if large else git).hexdigest()
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

    def _upload(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["oid"] in self.hub.large:
            return dict(asked)
        return {**asked, "actions": {"upload": {"href": f"{self.hub.url}/large/{asked['oid']}"}}}

    def _commit(self, name: str, there: Repository, branch: str, lines: list[dict[str, Any]]) -> None:
        if self.hub.meanwhile:
            there.branches[branch].append({**there.branches[branch][-1], "theirs.txt": b"1"})
        files = dict(there.branches[branch][-1])
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                if value["parentCommit"] != there.sha(branch):
                    self._answer(412, {"error": "A commit has happened since. Please refresh and try again."})
                    return
                there.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        there.branches[branch].append(files)
        sha = there.sha(branch)
        self._answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha})

    def _file(self, there: Repository, sha: str, path: str) -> None:
        (content,) = {files[-1][path] for branch, files in there.branches.items() if there.sha(branch) == sha}
        etag = hashlib.sha1(content).hexdigest()
        self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"})

    def _answer(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def faults(card: str) -> list[str]:
    """Return what the hub wouldn't take of a model card."""
    if not card.startswith("---\n"):
        return []
    told = yaml.safe_load(card.split("---\n")[1])
    return [
        f'"model-index[0].results[0].{part}.{key}" is required'
        for model in told.get("model-index", [])
        for result in model["results"]
        for part, keys in (("task", ["type"]), ("dataset", ["type", "name"]))
        for key in keys
        if key not in result.get(part, {})
    ]
