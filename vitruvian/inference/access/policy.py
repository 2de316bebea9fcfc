"""What an access file says, and which group a request belongs to. Pure but for reading the file."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from vitruvian import spec
from vitruvian.controls import escaped
from vitruvian.errors import SpecError

Group = Literal["health", "page", "metadata", "predict", "metrics"]
"""health: probes; page: the page and the description of all routes; metadata: what else is read; predict: all POSTs."""
_HEALTH: Final = ("/health", "/v2/health/live", "/v2/health/ready")
_PAGE: Final = ("/", "/docs", "/openapi.json")
_PAGE_FILES: Final = "/page/"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def group_of(path: str, method: str) -> Group:
    """Return the group that a request belongs to."""
    # As the routes' patterns, whose $ also matches before a newline that is the last.
    path = path.removesuffix("\n")
    if path in _HEALTH:
        return "health"
    if path == "/metrics":
        return "metrics"
    if path in _PAGE or path.startswith(_PAGE_FILES):
        return "page"
    return "predict" if method == "POST" else "metadata"


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _secure(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError("is not https; plain http is for this machine only")
    return url


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)


Groups = Annotated[tuple[Group, ...], BeforeValidator(_as_tuple)]
SecureUrl = Annotated[str, AfterValidator(_secure)]
# HMAC's are left out: with them who knows the public key could sign.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class RateLimit(_Part):
    """How often somebody may ask: on average, and at once."""

    requests_per_minute: float = Field(gt=0, le=1e9)
    burst: float = Field(default=10, ge=1, le=1e9)


class Key(_Part):
    """One API key, by its digest."""

    name: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    groups: Groups = ("page", "metadata", "predict")
    rate_limit: RateLimit | None = None
    expires: datetime | None = None


class KeyFile(_Part):
    """A file of API keys."""

    keys: Annotated[tuple[Key, ...], BeforeValidator(_as_tuple)]


class Jwt(_Part):
    """Tokens of an identity provider (OpenID Connect)."""

    issuer: SecureUrl
    audience: str
    jwks: SecureUrl | None = None
    """Where its keys are; none: where its discovery document says."""
    algorithms: Annotated[tuple[Algorithm, ...], BeforeValidator(_as_tuple), Field(min_length=1)] = ("RS256", "ES256")
    scopes: dict[Group, str] = Field(default_factory=dict)
    """The scope that a token needs for a group; a group that isn't named needs none."""
    leeway: float = Field(default=30, ge=0, le=600)
    """Seconds that clocks may differ."""


class Cors(_Part):
    """Which other sites' pages may ask."""

    origins: Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
    credentials: bool = False
    max_age: int = Field(default=600, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Cors:
        if self.credentials and "*" in self.origins:
            raise ValueError("credentials are not for every origin; name the origins")
        return self


class Policy(_Part):
    """The content of an access file."""

    keys: str | None = None
    """A file of API keys, beside this one."""
    jwt: Jwt | None = None
    public: Groups = ("health",)
    """Groups that nobody has to be known for."""
    cors: Cors | None = None
    rate_limit: RateLimit | None = None
    """For each identity that has none of its own, and for each address that asks without one."""

    @model_validator(mode="after")
    def _consistent(self) -> Policy:
        if self.keys is None and self.jwt is None and "predict" not in self.public:
            raise ValueError("nobody could predict; set keys or jwt, or make predict public")
        return self


def read_policy(path: Path) -> Policy:
    """Read an access file; raises `SpecError` with a line for each thing that is wrong."""
    policy: Policy = _read(Policy, path)
    return policy


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a file of API keys; raises `SpecError` with a line for each thing that is wrong."""
    file: KeyFile = _read(KeyFile, path)
    names = [key.name for key in file.keys]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError(f"two keys are named '{twice}'", where=path, hint="each key needs a name of its own")
    return file.keys


def _read(kind: Any, path: Path) -> Any:
    found = spec.documents(spec.read(path, "a file of YAML"), str(path))
    if len(found) != 1 or not isinstance(found[0], dict):
        raise SpecError("is not one map of YAML", where=path, hint="see docs/access.md")
    try:
        return kind.model_validate(found[0])
    except ValidationError as e:
        raise SpecError("\n".join(_lines(e, kind, path))) from e


def _lines(error: ValidationError, kind: Any, path: Path) -> Iterator[str]:
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            known = [field.alias or name for name, field in _within(kind, item["loc"][:-1]).items()]
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            text = f"unknown key; did you mean '{near[0]}'?" if near else "unknown key"
        yield escaped(f"{path}: {place}: {text}" if place else f"{path}: {text}")


def _within(kind: Any, place: tuple[int | str, ...]) -> dict[str, FieldInfo]:
    """Return the fields of the part that lies at a place."""
    for name in (part for part in place if isinstance(part, str)):
        field = next(field for key, field in kind.model_fields.items() if name in (key, field.alias))
        kinds = (field.annotation, *get_args(field.annotation))
        kind = next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), kind)
    fields: dict[str, FieldInfo] = kind.model_fields
    return fields
