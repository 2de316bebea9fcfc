"""One prediction from a server that runs somewhere else: what `helm test` and impatient people ask for."""

from __future__ import annotations

import http.client
import json
import math
import time
import urllib.error
import urllib.request
from typing import Any, NamedTuple

from vitruvian.errors import VitruvianError

_HINT = "check the address, and the server's log"
_UNKNOWN = 401
# What proxies answer while they know of no server.
_NOT_YET = (502, 503, 504)
_SECONDS_BETWEEN = 0.5


class NoAnswer(VitruvianError):
    """Nobody answers at this address, or not yet."""


class Answer(NamedTuple):
    """What a server said of an empty input."""

    classifier: str
    version: str
    label: str
    confidence: float


def probe(
    url: str, host: str | None = None, wait: float = 0.0, seconds: float = 10.0, *, key: str | None = None
) -> Answer:
    """Ask for the class of an input of zeros over the Open Inference Protocol.

    `host` goes into the Host header: ingress controllers tell servers apart by it. A server that doesn't answer is
    asked again for `wait` seconds; a request may take `seconds`. `key` is an API key. Raises `VitruvianError` where
    there is no answer, or a wrong one.
    """
    until = time.monotonic() + wait
    while True:
        try:
            return _probe(url, host, seconds, key)
        except NoAnswer:
            if time.monotonic() >= until:
                raise
            time.sleep(_SECONDS_BETWEEN)


def _probe(url: str, host: str | None, seconds: float, key: str | None) -> Answer:
    base = (url if "://" in url else f"http://{url}").rstrip("/")
    headers = {"Accept": "application/json"} | ({"Host": host} if host else {}) | ({"X-API-Key": key} if key else {})
    about = _ask(f"{base}/", headers, None, seconds)
    name = str(about.get("classifier"))
    model = f"{base}/v2/models/{name}"
    tensor = next(
        (entry for entry in _ask(model, headers, None, seconds)["inputs"] if entry["datatype"] == "FP32"), None
    )
    if tensor is None:
        raise VitruvianError("the model takes no tensors", where=model, hint=_HINT)
    shape = [1, *tensor["shape"][1:]]
    asked = {"inputs": [{**tensor, "shape": shape, "data": [0.0] * math.prod(shape)}]}
    answered = _ask(f"{model}/infer", headers, json.dumps(asked).encode(), seconds)
    outputs = {output["name"]: output["data"] for output in answered["outputs"]}
    probabilities = outputs["probabilities"]
    if not math.isclose(sum(probabilities), 1.0, abs_tol=1e-3):
        raise VitruvianError(f"probabilities sum to {sum(probabilities):.3f}", where=model, hint=_HINT)
    return Answer(name, str(answered.get("model_version")), outputs["label"][0], max(probabilities))


def _ask(url: str, headers: dict[str, str], body: bytes | None, seconds: float) -> dict[str, Any]:
    content = {"Content-Type": "application/json"} if body is not None else {}
    try:
        request = urllib.request.Request(url, data=body, headers={**headers, **content})
        with urllib.request.urlopen(request, timeout=seconds) as response:
            answer = json.loads(response.read())
    except urllib.error.HTTPError as e:
        if e.code == _UNKNOWN:
            what = "doesn't know this key" if "X-API-Key" in headers else "asks for a key"
            raise VitruvianError(what, where=url, hint="give one that it knows with --key, or VITRUVIAN_KEY") from e
        kind = NoAnswer if e.code in _NOT_YET else VitruvianError
        raise kind(f"answered {e.code}: {e.read(500).decode(errors='replace')}", where=url, hint=_HINT) from e
    except OSError as e:
        raise NoAnswer(f"doesn't answer ({getattr(e, 'reason', e)})", where=url, hint=_HINT) from e
    except (ValueError, http.client.HTTPException) as e:
        raise VitruvianError(f"is no Vitruvian server ({e})", where=url, hint=_HINT) from e
    if not isinstance(answer, dict):
        raise VitruvianError("is no Vitruvian server", where=url, hint=_HINT)
    return answer
