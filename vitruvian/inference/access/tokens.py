"""Tokens of an identity provider (JWT, RFC 7519; JWKS, RFC 7517; OpenID Connect Discovery 1.0)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import jwt

from vitruvian.inference.access.policy import Jwt

_log = logging.getLogger(__name__)
_FRESH_SECONDS: Final = 300.0
"""How long the provider's keys are believed."""
_SECONDS_BETWEEN_FETCHES: Final = 10.0
"""Whoever sends tokens of keys that nobody knows must not make us ask the provider for each."""
_TIMEOUT: Final = 5.0
_LARGEST_DOCUMENT: Final = 1 << 20
_LONGEST_TOKEN: Final = 16_384
_MOST_KNOWN: Final = 10_000


class NotValid(Exception):
    """A token that isn't accepted, and why."""


@dataclass(frozen=True)
class Claims:
    """What an accepted token says."""

    subject: str
    scopes: frozenset[str]
    expires: float


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *asked: Any) -> None:
        return None


def fetch(url: str) -> dict[str, Any]:
    """Return the JSON object at a URL; no proxies, no redirects. Raises `OSError` and `ValueError`."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
    with opener.open(url, timeout=_TIMEOUT) as answer:
        document = json.loads(answer.read(_LARGEST_DOCUMENT))
    if not isinstance(document, dict):
        raise ValueError("is not a JSON object")
    return document


class Tokens:
    """Checks tokens by the provider's keys, which are fetched in threads and kept."""

    def __init__(self, settings: Jwt, get: Callable[[str], dict[str, Any]] = fetch) -> None:
        self._settings = settings
        self._get = get
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched = self._tried = -_FRESH_SECONDS - _SECONDS_BETWEEN_FETCHES
        self._fetching: asyncio.Task[None] | None = None
        self._known: OrderedDict[bytes, Claims] = OrderedDict()

    async def claims(self, token: str) -> Claims:
        """Return what a token says; raises `NotValid`."""
        if len(token) > _LONGEST_TOKEN:
            raise NotValid("the token is too long")
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None and known.expires + self._settings.leeway > time.time():
            self._known.move_to_end(digest)
            return known
        claims = self._read(token, await self._key(token))
        self._known[digest] = claims
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return claims

    async def _key(self, token: str) -> jwt.PyJWK:
        try:
            head = jwt.get_unverified_header(token)
        except jwt.PyJWTError as e:
            raise NotValid("the token can't be read") from e
        if head.get("alg") not in self._settings.algorithms:
            raise NotValid("the token's algorithm isn't accepted")
        name = head.get("kid")
        now = time.monotonic()
        if now - self._fetched > _FRESH_SECONDS or name not in self._keys:
            await self._refresh(now)
        key = self._keys.get(name)
        if key is None and name is None and len(self._keys) == 1:
            (key,) = self._keys.values()
        if key is None:
            raise NotValid("the token is signed by a key that the issuer doesn't show")
        return key

    async def _refresh(self, now: float) -> None:
        """Fetch the keys, once for all who wait, and not too often; those that are there stay where that fails."""
        if self._fetching is None:
            if now - self._tried < _SECONDS_BETWEEN_FETCHES:
                return
            self._tried = now
            self._fetching = asyncio.create_task(self._load())
        await asyncio.shield(self._fetching)

    async def _load(self) -> None:
        try:
            shown = await asyncio.to_thread(self._shown)
            keys = {}
            for entry in shown.get("keys", ()):
                try:
                    key = jwt.PyJWK(entry)
                except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
                    continue
                if entry.get("use", "sig") == "sig" and key.key_type != "oct":
                    keys[entry.get("kid")] = key
            if keys:
                self._keys, self._fetched = keys, time.monotonic()
                # What was revoked with a key isn't believed from memory.
                self._known.clear()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            _log.warning("the keys of %s can't be fetched (%s)", self._settings.issuer, e)
        finally:
            self._fetching = None

    def _shown(self) -> dict[str, Any]:
        url = self._settings.jwks
        if url is None:
            issuer = self._settings.issuer.rstrip("/")
            url = str(self._get(f"{issuer}/.well-known/openid-configuration")["jwks_uri"])
            # The document says where; that place must be as safe as the document was.
            Jwt(issuer=self._settings.issuer, audience="", jwks=url)
        return self._get(url)

    def _read(self, token: str, key: jwt.PyJWK) -> Claims:
        settings = self._settings
        try:
            found = jwt.decode(
                token,
                key,
                algorithms=list(settings.algorithms),
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=settings.leeway,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as e:
            raise NotValid(f"the token isn't valid ({str(e)[:100]})") from e
        scope = found.get("scope", found.get("scp", ""))
        scopes = frozenset(scope.split() if isinstance(scope, str) else map(str, scope))
        return Claims(str(found.get("sub", "token"))[:200], scopes, float(found["exp"]))
