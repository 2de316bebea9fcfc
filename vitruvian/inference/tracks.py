"""The champion, and the challenger that is tried beside it: which of them answers which request.

Both live in one process and share its CPUs, but nothing else that one of them could use up. Each has lanes of its own:
a thread that hangs can't be stopped, and of a shared pool it would be lost to both. Each has a queue of its own, and
room for bodies of its own. The challenger has as many lanes as its share of the requests needs; that also bounds what
it can take of the CPUs from a busy champion.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from vitruvian.errors import BundleError, VitruvianError
from vitruvian.inference.admission import Ticket
from vitruvian.inference.agreement import agreement
from vitruvian.inference.aside import aside
from vitruvian.inference.lanes import Wanted
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.problems import BUSY, NOT_FOUND, NOT_READY, Problem, retry
from vitruvian.inference.protocol import Malformed
from vitruvian.inference.rules import CANARY, KEY, STABLE, TRACK, Rules, challenger_settings, cookie, drawn, new_cookie
from vitruvian.inference.service import Service, State
from vitruvian.inference.shadow import Shadow
from vitruvian.inference.startup import Startup
from vitruvian.inference.triton import statistics
from vitruvian.observability import metrics as names

_log = logging.getLogger(__name__)

VERSION = b"x-vitruvian-version"
"""The header of answers that tells the version."""
FALLBACK = b"x-vitruvian-fallback"
"""The header of answers that tells why the champion gave them though the challenger was drawn."""
EXPORT = b"x-vitruvian-export"
"""The header of answers that tells which of the bundle's exports gave them."""
TOLD = (VERSION, TRACK, FALLBACK, EXPORT)
"""What every protocol says beside an answer."""
IDENTITY = "identity"
"""Where a request's state tells whose API key or token it came with."""

_STALLED_SECONDS = 2.0
"""A challenger that is later than this is taken for one that hangs."""

Headers = tuple[tuple[bytes, bytes], ...]


class Tracks:
    """Decides which service answers which request.

    `load` returns the challenger's predictor, once the champion is ready; nothing that it does or raises harms that.
    """

    def __init__(
        self, stable: Service, rules: Rules | None = None, load: Callable[[], Predictor] | None = None
    ) -> None:
        self.stable = stable
        self.canary: Service | None = None
        """The challenger's, from when its bundle is open."""
        self.rules = rules or Rules()
        self.shadow: Shadow | None = None
        self.trouble: VitruvianError | None = None
        """Why there is no challenger, where one was asked for."""
        self._load = load
        self._shares = load is not None and self.rules.share > 0
        self._salt = b""
        self._said_by_stable = _said_by(stable)
        self._said_by_canary: Headers = ()
        if load is not None:
            if stable.settings.track != STABLE:
                raise VitruvianError(f"a server of track {stable.settings.track} has no challenger beside it")
            ready = stable.metrics.gauge(names.CHALLENGER_READY, "livemin").labels(*stable.metrics.identity)
            stable.metrics.ask(ready, lambda: float(self.state == State.READY))
            self._fallbacks = stable.metrics.counter(names.FALLBACKS)

    # Who answers

    def take(
        self, state: dict[str, Any], seconds: float | None, wanted: Service | None = None
    ) -> tuple[Service, Ticket]:
        """Return who answers a request, and the claim to its answer within so many seconds.

        `state` is the request's: its `headers` are looked up, by names in small letters; `service`, and `said`, the
        headers that tell of it, are noted there. `wanted` answers where it is given. Raises `Malformed`, or a `Problem`
        where the request isn't taken on.
        """
        headers: Mapping[bytes, bytes] = state["headers"]
        service = wanted or self.asked(headers)
        if service is None and self._shares:
            return self._share(state, headers, seconds)
        service = service or self.stable
        self._note(state, service)
        return service, self.claim(service, headers, seconds)

    def claim(self, service: Service, headers: Mapping[bytes, bytes], seconds: float | None) -> Ticket:
        """Return a claim to an answer of one of the services; raises a `Problem` where it takes nothing on."""
        if service is not self.stable:
            if self.stable.state is State.DRAINING:
                self.stable.check_ready()
            if self.state != State.READY:
                kind = BUSY if service.state is State.READY else NOT_READY
                raise retry(kind, f"the challenger is {self.state}", 2)
            length = headers.get(b"content-length", b"")
            if length.isdigit() and service.bodies.held + int(length) > service.bodies.limit:
                raise retry(BUSY, f"bodies of {service.bodies.held} bytes are being worked on already", 1)
        return service.ticket(seconds)

    def named(self, name: str, version: str | None) -> Service | None:
        """Return the service of a model's version, None where no version is named; raises a `Problem` for another."""
        known = self.stable.predictor.bundle.info.name
        if name != known:
            raise Problem(NOT_FOUND, f"there is no model '{name[:100]}' here, but '{known}'")
        if not version:
            return None
        for service in self.services:
            if service.predictor.bundle.info.version == version:
                return service
        there = " and ".join(f"'{each}'" for each in self.versions)
        raise Problem(NOT_FOUND, f"there is no version '{version[:100]}' here, but {there}")

    @property
    def services(self) -> list[Service]:
        """The champion's, and the challenger's where there is one."""
        return [each for each in (self.stable, self.canary) if each is not None]

    @property
    def versions(self) -> list[str]:
        """The versions that are here, the champion's first."""
        return list(dict.fromkeys(each.predictor.bundle.info.version for each in self.services))

    @property
    def challenger(self) -> Service:
        """The challenger's service; raises the `Problem` that says why there is none."""
        if self.canary is None:
            why = "start with --challenger" if self._load is None else f"it is {self.state}"
            raise Problem(NOT_FOUND, f"only the track {self.stable.settings.track} answers here, no challenger: {why}")
        return self.canary

    def asked(self, headers: Mapping[bytes, bytes]) -> Service | None:
        """Return the service that a client asks for by its track's name."""
        track = headers.get(TRACK)
        # Browsers keep a cookie for longer than there is something to try.
        if track is None and self._load is not None:
            track = value if (value := cookie(headers)) in (b"stable", b"canary") else None
        if track is None:
            return None
        if track not in (b"stable", b"canary"):
            raise Malformed("the header X-Vitruvian-Track is stable or canary")
        return self.stable if track.decode() == self.stable.settings.track else self.challenger

    def _share(
        self, state: dict[str, Any], headers: Mapping[bytes, bytes], seconds: float | None
    ) -> tuple[Service, Ticket]:
        extra: Headers = ()
        key = headers.get(KEY) or cookie(headers)
        if key is None and (identity := state.get(IDENTITY)) is not None:
            key = str(identity).encode()
        if key is None and self.rules.sticky_cookie:
            key, value = new_cookie()
            extra = ((b"set-cookie", value),)
        if drawn(key, self._salt, self.rules.share):
            try:
                canary = self.challenger
                ticket = self.claim(canary, headers, seconds)
            except Problem as e:
                extra = self._fall_back(NOT_READY.slug if e.kind is NOT_FOUND else e.kind.slug, extra)
            else:
                state["drawn"] = extra
                self._note(state, canary, extra)
                return canary, ticket
        self._note(state, self.stable, extra)
        return self.stable, self.stable.ticket(seconds)

    def suited(
        self, state: dict[str, Any], service: Service, *, tensors: bool, labels: object, precision: object
    ) -> Service:
        """Return who answers what a body asks: the champion where the challenger was drawn and can't.

        Tensors are what the champion's preprocessing made, where a client named no version; labels need a text tower,
        precision an export.
        """
        extra: Headers | None = state.get("drawn")
        if extra is None:
            return service
        champion, challenger = self.stable.predictor, service.predictor
        if (
            (tensors and champion.bundle.preprocess != challenger.bundle.preprocess)
            or (labels is not None and self.stable.labels is not None and service.labels is None)
            or (precision is not None and champion.has_exact and not challenger.has_exact)
        ):
            service.metrics.in_flight.dec()
            self.stable.metrics.in_flight.inc()
            self._note(state, self.stable, self._fall_back("unsuited", extra))
            return self.stable
        return service

    def _fall_back(self, reason: str, extra: Headers) -> Headers:
        self._fallbacks.labels(*self.stable.metrics.identity, reason).inc()
        return (*extra, (FALLBACK, reason.encode()))

    def _note(self, state: dict[str, Any], service: Service, extra: Headers = ()) -> None:
        state["service"] = service
        if service is self.stable:
            state["said"] = self._said_by_stable + extra
        else:
            state["said"] = self._said_by_canary + extra
            self.stable.metrics.in_flight.dec()
            service.metrics.in_flight.inc()

    # The challenger's life

    async def start(self) -> None:
        """Load the challenger, and let it answer once its golden example is right.

        What goes wrong is told in one line of the log, in the metrics and by `told`.
        """
        if self._load is None:
            return
        try:
            await self._start(self._load)
        except VitruvianError as e:
            self.trouble = e
        except Exception as e:
            self.trouble = VitruvianError(f"can't be loaded ({e})")
        if self.trouble is not None:
            _log.warning("the challenger isn't served, the champion is: %s", self.trouble)

    async def _start(self, load: Callable[[], Predictor]) -> None:
        startup = Startup()
        with startup.time("load"):
            predictor = await aside(load)
        _check_beside(predictor, self.stable.predictor)
        settings = challenger_settings(self.stable.settings, self.rules)
        canary = Service(predictor, settings, startup, beside=self.stable)
        self._said_by_canary = _said_by(canary)
        # Each challenger is tried on other keys.
        self._salt = predictor.bundle.digest.encode()
        self.canary = canary
        await canary.start()
        if canary.failure is not None:
            canary.close()
            raise canary.failure
        if self.rules.shadow > 0:
            self.stable.watcher = self.shadow = Shadow(self.stable, canary, self.rules.shadow)

    def close(self) -> None:
        """Let the challenger's threads end."""
        if self.shadow is not None:
            self.stable.watcher = None
            self.shadow.close()
        if self.canary is not None:
            self.canary.drain()
            self.canary.close()

    @property
    def state(self) -> str:
        """Where the challenger is in its life: `none`, `loading`, what a service's state is, or `stalled`."""
        if self._load is None:
            return "none"
        if self.canary is None:
            return "loading" if self.trouble is None else State.FAILED
        stalled = self.canary.state is State.READY and self._late(self.canary) > _STALLED_SECONDS
        return "stalled" if stalled else self.canary.state

    def _late(self, canary: Service) -> float:
        """Return for how many seconds the challenger has owed an answer."""
        began = None if self.shadow is None else self.shadow.began
        shadow = 0.0 if began is None else time.monotonic() - began - canary.lanes.work(1)
        return max(shadow, canary.lanes.overdue())

    # What is told

    def indexed(self) -> list[dict[str, str]]:
        """Return the versions and their states as the Open Inference Protocol's repository index has them."""
        return [
            {
                "name": service.predictor.bundle.info.name,
                "version": service.predictor.bundle.info.version,
                "state": "READY" if service.state is State.READY else "UNAVAILABLE",
                "reason": "" if service.failure is None else service.failure.what,
            }
            for service in self.services
        ]

    def statistics(self, version: Service | None) -> list[dict[str, Any]]:
        """Return the statistics of one version, or of all that are here, as Triton's tools read them."""
        samples = list(self.stable.metrics.samples())
        services = self.services if version is None else [version]
        return [statistics(samples, service.metrics.identity) for service in services]

    def told(self) -> dict[str, Any]:
        """Return the answer to `GET /tracks`."""
        tracks = {self.stable.settings.track: {**_about(self.stable), "state": self.stable.state}}
        if self._load is not None:
            about = {"version": None} if self.canary is None else _about(self.canary)
            why = None if self.trouble is None else self.trouble.what
            tracks[CANARY] = {**about, "state": self.state, "reason": why}
        shadow, fell = self.shadow, names.FALLBACKS.name
        samples = [] if self._load is None else list(self.stable.metrics.samples())
        return {
            "classifier": self.stable.predictor.bundle.info.name,
            "tracks": tracks,
            "share": self.rules.share,
            "fallbacks": {each.labels["reason"]: int(each.value) for each in samples if each.name == fell},
            "shadow": self.rules.shadow,
            "agreement": None if shadow is None else {**agreement(samples), "waiting": shadow.waiting},
        }


def _check_beside(challenger: Predictor, champion: Predictor) -> None:
    """Raise `BundleError` for a challenger that can't answer what the champion is asked."""
    mine, theirs = challenger.bundle, champion.bundle
    if mine.preprocess.kind != theirs.preprocess.kind:
        what = f"takes another input ({mine.preprocess.kind}) than the champion ({theirs.preprocess.kind})"
        raise BundleError(what, where=mine.folder)
    if mine.info.name != theirs.info.name:
        raise BundleError(f"is of '{mine.info.name}', the champion of '{theirs.info.name}'", where=mine.folder)


def _about(service: Service) -> dict[str, Any]:
    bundle = service.predictor.bundle
    return {"version": bundle.info.version, "digest": bundle.digest, "waiting": service.lanes.waiting}


def _said_by(service: Service) -> Headers:
    bundle = service.predictor.bundle
    version = quote(bundle.info.version)
    return (
        (VERSION, version.encode()),
        (TRACK, service.settings.track.encode()),
        (EXPORT, bundle.served.format.encode()),
    )


async def wanted(
    state: dict[str, Any], service: Service, labels: object, templates: object, precision: object, ticket: Ticket
) -> Wanted:
    """Return what `Service.wanted` does, and note in a request's state which export answers it; raises as that does."""
    found = await service.wanted(labels, templates, precision, ticket)
    if found.exact:
        tell_exact(state, service)
    return found


def tell_exact(state: dict[str, Any], service: Service) -> None:
    """Note in a request's state that the export in full precision answers it."""
    exact = service.predictor.exact
    if exact is not None:
        others = tuple(header for header in state.get("said", ()) if header[0] != EXPORT)
        state["said"] = (*others, (EXPORT, exact.format.encode()))
