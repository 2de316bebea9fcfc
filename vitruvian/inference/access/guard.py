"""Deciding who a request comes from and whether it is let in, for HTTP and gRPC alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from vitruvian.inference.access.keys import PREFIX, KeyRing
from vitruvian.inference.access.limits import Buckets, part
from vitruvian.inference.access.policy import Group, Policy, RateLimit, group_of, read_policy
from vitruvian.inference.access.tokens import NotValid, Tokens
from vitruvian.inference.problems import FORBIDDEN, UNAUTHENTICATED, Problem, problem_response

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="vitruvian"'}


class Identity(NamedTuple):
    """Who asks."""

    name: str
    groups: frozenset[str] | None
    """What it may ask; None: what its scopes say."""
    scopes: frozenset[str] = frozenset()
    limit: RateLimit | None = None


class Guard:
    """Lets requests in or not, by an access file; raises `SpecError` for one that can't be carried out."""

    def __init__(self, policy: Policy, folder: Path, *, shares: int = 1) -> None:
        self.policy = policy
        self._public = frozenset(policy.public)
        self._keys = KeyRing(folder / policy.keys) if policy.keys else None
        self._tokens = Tokens(policy.jwt) if policy.jwt else None
        self._buckets = Buckets()
        self._shares = shares

    @classmethod
    def open(cls, path: Path, *, shares: int = 1) -> Guard:
        """Return the guard that an access file describes; of so many processes each has its share of the limits."""
        return cls(read_policy(path), path.parent, shares=shares)

    async def check(self, headers: Mapping[bytes, bytes], group: Group, remote: str) -> Identity | None:
        """Return who a request comes from, None for somebody who need not be known; raises the `Problem` of a refusal.

        `headers` are looked up by names in small letters.
        """
        identity = await self.admit(headers, group)
        limit = self._limit(identity)
        if limit is not None and group != "health":
            self._buckets.take(f"address {remote}" if identity is None else identity.name, limit, self._shares)
        return identity

    async def admit(self, headers: Mapping[bytes, bytes], group: Group) -> Identity | None:
        """Return the same without counting a request."""
        given = _secret(headers)
        if given is None:
            if group not in self._public:
                detail = "send an API key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
                raise Problem(UNAUTHENTICATED, detail, _CHALLENGE)
            return None
        identity = await self._identity(given)
        if group not in self._public and not self._may(identity, group):
            raise Problem(FORBIDDEN, f"'{identity.name}' may not ask for {group}")
        return identity

    def gives(self, identity: Identity | None) -> dict[str, float] | None:
        """Return how often each of so many processes lets somebody ask; None: as often as they like."""
        limit = self._limit(identity)
        if limit is None:
            return None
        each, burst = part(limit, self._shares)
        return {"requests_per_minute": each, "burst": burst, "processes": self._shares}

    def _limit(self, identity: Identity | None) -> RateLimit | None:
        return (identity and identity.limit) or self.policy.rate_limit

    async def _identity(self, given: str) -> Identity:
        if self._keys is not None and (given.startswith(PREFIX) or self._tokens is None):
            key = self._keys.find(given)
            if key is None:
                raise Problem(UNAUTHENTICATED, "the API key isn't known, or has expired", _CHALLENGE)
            return Identity(f"key {key.name}", frozenset(key.groups), limit=key.rate_limit)
        if self._tokens is None:
            raise Problem(UNAUTHENTICATED, "no keys or tokens are accepted here", _CHALLENGE)
        try:
            claims = await self._tokens.claims(given)
        except NotValid as e:
            challenge = {"WWW-Authenticate": 'Bearer realm="vitruvian", error="invalid_token"'}
            raise Problem(UNAUTHENTICATED, str(e), challenge) from e
        return Identity(f"subject {claims.subject}", None, claims.scopes)

    def _may(self, identity: Identity, group: Group) -> bool:
        if identity.groups is not None:
            return group in identity.groups
        assert self.policy.jwt is not None
        needed = self.policy.jwt.scopes.get(group)
        return needed is None or needed in identity.scopes


def _secret(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the key or token that a request carries."""
    bearer = headers.get(b"authorization")
    if bearer is not None and bearer[:7].lower() == b"bearer ":
        return bearer[7:].strip().decode("latin-1")
    key = headers.get(b"x-api-key")
    return None if key is None else key.strip().decode("latin-1")


class GuardMiddleware:
    """Asks the guard before the application; within `Envelope`, which gives requests their ids."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self.app = app
        self.guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            state: dict[str, Any] = scope["state"]
            path = scope["path"]
            client = scope.get("client")
            try:
                identity = await self.guard.check(
                    state["headers"], group_of(path, scope["method"]), client[0] if client else ""
                )
            except Problem as e:
                await problem_response(e, path, state["request_id"])(scope, receive, send)
                return
            state["asker"] = identity
            if identity is not None:
                state["identity"] = identity.name
        await self.app(scope, receive, send)


def with_cors(app: ASGIApp, policy: Policy) -> ASGIApp:
    """Return an application that answers other sites' pages as the policy allows."""
    if policy.cors is None:
        return app
    return CORSMiddleware(
        app,
        allow_origins=policy.cors.origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        allow_credentials=policy.cors.credentials,
        expose_headers=(
            "X-Request-ID",
            "Retry-After",
            "X-Vitruvian-Version",
            "X-Vitruvian-Track",
            "X-Vitruvian-Export",
        ),
        max_age=policy.cors.max_age,
    )
