"""Labels that a request brings along: each set of them is encoded once, kept in memory by bytes, and on disk.

A text costs a CLIP as much as a picture does, and a set has many; once encoded, telling its labels apart costs a
product of matrices.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect

from vitruvian.artifact import digest_of
from vitruvian.errors import StoreError
from vitruvian.inference.admission import Ticket
from vitruvian.inference.aside import aside
from vitruvian.inference.builds import Build, Builds
from vitruvian.inference.predictor import Head
from vitruvian.inference.problems import LATE, UNUSABLE, Problem, retry
from vitruvian.inference.protocol import Malformed
from vitruvian.store import open_store

_log = logging.getLogger(__name__)

MOST_LABELS = 1000
MOST_TEMPLATES = 100
MOST_PROMPTS = 8192
"""Labels times templates of one request: what it can cost is bounded."""
LONGEST_LABEL = 200
LONGEST_TEMPLATE = 300
_MOST_SETS = 1000
"""That are kept."""
_BYTES_OF_A_TEXT, _BYTES_OF_A_CHARACTER = 100, 4
_AT_ONCE = 8
"""Texts that are encoded before predictions get their turn."""
_CHECKED_AT_ONCE = 256
_FIRST_GUESS = 0.05
"""Seconds of a text, until one was encoded."""
_BUILD_SECONDS = 3600.0
_SHOWN = 60

Run = Callable[[Callable[[], Any], Ticket, float], Awaitable[Any]]
"""Runs a function in a lane; see `Service.run`."""


class Encoder(Protocol):
    """A text tower."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return embeddings (n, width) of length 1."""

    def too_long(self, texts: Sequence[str]) -> int | None:
        """Return the place of the first text that isn't read to its end; None where there is none."""


@dataclass(frozen=True)
class Labels:
    """A set of labels in the order in which they are answered, and the sentences that each stands in."""

    labels: tuple[str, ...]
    templates: tuple[str, ...]

    def prompts(self, label: str) -> list[str]:
        """Return the sentences of a label."""
        return [template.replace("{}", label) for template in self.templates]


def read_labels(labels: object, templates: object, usual: Sequence[str]) -> Labels:
    """Return the labels of a request, in its templates or in the usual ones; raises `Malformed`."""
    texts = _texts(labels, "labels", MOST_LABELS, LONGEST_LABEL)
    if len(set(texts)) != len(texts):
        raise Malformed("'labels' names one label twice")
    chosen = tuple(usual) if templates is None else _texts(templates, "templates", MOST_TEMPLATES, LONGEST_TEMPLATE)
    for template in chosen:
        if template.count("{}") != 1:
            raise Malformed(f"the template '{template[:100]}' needs {{}} once, where the label stands")
    if len(texts) * len(chosen) > MOST_PROMPTS:
        raise Malformed(f"{len(texts)} labels in {len(chosen)} templates are more than {MOST_PROMPTS} texts")
    return Labels(texts, chosen)


def _texts(value: object, name: str, most: int, longest: int) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise Malformed(f"'{name}' is not a list of texts")
    texts = tuple(" ".join(text.split()) for text in value)
    if not 1 <= len(texts) <= most:
        raise Malformed(f"'{name}' holds {len(texts)} texts, and may hold 1 to {most}")
    for text in texts:
        if not 1 <= len(text) <= longest:
            raise Malformed(f"a text of '{name}' has {len(text)} characters, and may have 1 to {longest}")
    return texts


def vectors(embeddings: NDArray[np.float32], labels: int) -> NDArray[np.float32]:
    """Return each label's vector (labels, width) of length 1: the mean over its sentences.

    `embeddings` are those of all prompts, one label's after another's.
    """
    means = embeddings.reshape(labels, -1, embeddings.shape[1]).mean(1)
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)


def size_of(asked: Labels, head: Head) -> int:
    """Return about how many bytes a set takes: each label stands in an index, too."""
    texts = (*asked.labels, *asked.templates)
    characters = sum(map(len, texts))
    return head.weight.nbytes + _BYTES_OF_A_TEXT * len(texts) + _BYTES_OF_A_CHARACTER * characters


class LabelSets:
    """The sets of labels that one bundle's server knows; to be used from one event loop.

    `load` returns the text tower when it is first needed: sets that lie on disk, in `folder`, need none. `scale` is
    what a cosine counts in a logit, `identity` tells the tower apart from others.
    """

    def __init__(
        self,
        load: Callable[[], Encoder],
        run: Run,
        *,
        scale: float,
        identity: str,
        templates: Sequence[str],
        most_bytes: int = 64_000_000,
        folder: Path | None = None,
    ) -> None:
        self.templates = tuple(templates)
        self._load = load
        self._run = run
        self._scale = scale
        self._identity = identity
        self._most_bytes = most_bytes
        self._folder = folder
        self._encoder: Encoder | None = None
        self._seconds = _FIRST_GUESS
        self._known: OrderedDict[Labels, Head] = OrderedDict()
        self._bytes = 0
        self._places: dict[tuple[str, ...], dict[str, tuple[Labels, int]]] = {}
        """Of each templates' labels: a set that has the label, and where."""
        self._builds: Builds[Labels, Head] = Builds()

    @property
    def known(self) -> list[Labels]:
        """The sets that are in memory, those that were asked for latest last."""
        return list(self._known)

    async def head(self, asked: Labels, ticket: Ticket) -> Head:
        """Return what tells these labels apart; whoever asks for a new set first has it encoded for all.

        Raises a `Problem` where that takes longer than there is time; it goes on, and the next request finds it done.
        """
        head = self._known.get(asked)
        if head is not None:
            self._known.move_to_end(asked)
            return head
        build = self._builds.get(asked)
        if build is None:
            texts = len(asked.labels) * len(asked.templates)
            build = self._builds.begin(
                asked,
                texts,
                self._seconds,
                lambda build: self._build(asked, build),
                lambda head: self._keep(asked, head),
            )
        if await self._builds.wait(asked, build, ticket, self._seconds):
            assert build.task is not None
            return build.task.result()
        if ticket.gone:
            raise ClientDisconnect
        seconds = self._builds.seconds(build, self._seconds)
        raise retry(LATE, f"these labels are being encoded, which takes about {seconds} s", seconds)

    async def embed(self, texts: Sequence[str], ticket: Ticket) -> NDArray[np.float32]:
        """Return the embeddings (n, width) of texts; raises a `Problem` where there is no time for it."""
        embeddings: NDArray[np.float32] = await self._run(
            lambda: self._encode(texts), ticket, len(texts) * self._seconds
        )
        return embeddings

    async def warm(self) -> None:
        """Read what lies on disk, the latest first, as far as there is room; to be run while others are answered."""
        for asked, head in await aside(self._read_all):
            if asked not in self._known and self._has_room(size_of(asked, head)):
                self._keep(asked, head)
                # Whatever was asked for since the start is newer.
                self._known.move_to_end(asked, last=False)

    async def _build(self, asked: Labels, build: Build[Head]) -> Head:
        # It may not be warm yet, or any more, or another process may have encoded it.
        kept = await aside(lambda: self._find(asked))
        if kept is not None:
            return kept
        rows = self._rows(asked)
        missing = [label for label in asked.labels if label not in rows]
        await self._check(asked, missing, build)
        each = max(1, _AT_ONCE // len(asked.templates))
        for start in range(0, len(missing), each):
            build.left = (len(missing) - start) * len(asked.templates)
            rows |= await self._vectors(missing[start : start + each], asked, build)
        weight = np.stack([rows[label] for label in asked.labels]) * np.float32(self._scale)
        head = Head(asked.labels, np.ascontiguousarray(weight, np.float32))
        if self._folder is not None:
            await asyncio.to_thread(self._write, asked, head)
        return head

    def _rows(self, asked: Labels) -> dict[str, NDArray[np.float32]]:
        """Return the vectors of those labels that other sets have in the same templates."""
        places = self._places.get(asked.templates, {})
        found = {label: places[label] for label in asked.labels if label in places}
        return {label: self._known[known].weight[at] / np.float32(self._scale) for label, (known, at) in found.items()}

    async def _check(self, asked: Labels, labels: Sequence[str], build: Build[Head]) -> None:
        """Raise a `Problem` naming the label that isn't read to its end in one of its sentences."""
        pairs = [(label, template) for label in labels for template in asked.templates]
        for start in range(0, len(pairs), _CHECKED_AT_ONCE):
            part = pairs[start : start + _CHECKED_AT_ONCE]
            texts = [template.replace("{}", label) for label, template in part]
            async with self._builds.turn(build):
                at = await self._run(partial(self._too_long, texts), Ticket(_BUILD_SECONDS), self._seconds)
            if at is not None:
                label, template = part[at]
                what = f"the label '{_short(label)}' is too long for this model in the template '{_short(template)}'"
                raise Problem(UNUSABLE, f"{what}: its end would not be read; shorten one of them")

    async def _vectors(
        self, labels: Sequence[str], asked: Labels, build: Build[Head]
    ) -> dict[str, NDArray[np.float32]]:
        """Return each label's vector, of length 1: the mean over its sentences, each of length 1."""
        texts = [text for label in labels for text in asked.prompts(label)]
        found: list[NDArray[np.float32]] = []
        for start in range(0, len(texts), _AT_ONCE):
            part = texts[start : start + _AT_ONCE]
            # Whoever asked may leave: others may wait for the same.
            async with self._builds.turn(build):
                found.append(await self.embed(part, Ticket(_BUILD_SECONDS)))
        return dict(zip(labels, vectors(np.concatenate(found), len(labels)), strict=True))

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        encoder = self._loaded()
        began = time.monotonic()
        embeddings = encoder.encode(texts)
        self._seconds += 0.2 * ((time.monotonic() - began) / len(texts) - self._seconds)
        return embeddings

    def _too_long(self, texts: Sequence[str]) -> int | None:
        return self._loaded().too_long(texts)

    def _loaded(self) -> Encoder:
        if self._encoder is None:
            self._encoder = self._load()
        return self._encoder

    # What is kept.

    def _has_room(self, more: int) -> bool:
        return self._bytes + more <= self._most_bytes and len(self._known) < _MOST_SETS

    def _keep(self, asked: Labels, head: Head) -> None:
        if asked in self._known:
            self._known.move_to_end(asked)
            return
        size = size_of(asked, head)
        while self._known and not self._has_room(size):
            self._forget(next(iter(self._known)))
        self._known[asked] = head
        self._bytes += size
        places = self._places.setdefault(asked.templates, {})
        places.update((label, (asked, at)) for at, label in enumerate(asked.labels))

    def _forget(self, asked: Labels) -> None:
        self._bytes -= size_of(asked, self._known.pop(asked))
        places = self._places[asked.templates]
        for label in asked.labels:
            if places.get(label, (None, 0))[0] is asked:
                del places[label]
        if not places:
            del self._places[asked.templates]

    def _name(self, asked: Labels) -> str:
        key = digest_of([self._identity, self._scale, asked.labels, asked.templates])
        return f"{key[:32]}.safetensors"

    def _find(self, asked: Labels) -> Head | None:
        """Return a set that lies on disk."""
        path = None if self._folder is None else self._folder / self._name(asked)
        read = _read(path, self._identity) if path is not None else None
        return read[1] if read is not None and read[0] == asked else None

    def _write(self, asked: Labels, head: Head) -> None:
        from safetensors.numpy import save

        about = {
            "identity": self._identity,
            "labels": json.dumps(asked.labels),
            "templates": json.dumps(asked.templates),
        }
        assert self._folder is not None
        try:
            open_store(self._folder).put(self._name(asked), save({"weight": head.weight}, about))
            self._tidy()
        except (StoreError, OSError) as e:
            # They are encoded again after the next start: nobody needs to be told but who reads the log.
            _log.warning("labels can't be kept in %s (%s)", self._folder, e)

    def _files(self) -> list[Path]:
        """Return what lies on disk, the latest first."""
        assert self._folder is not None
        found = [(path.stat().st_mtime_ns, path) for path in self._folder.glob("*.safetensors")]
        return [path for _, path in sorted(found, reverse=True)]

    def _tidy(self) -> None:
        total = 0
        for number, path in enumerate(self._files()):
            total += path.stat().st_size
            if total > self._most_bytes or number >= _MOST_SETS:
                path.unlink(missing_ok=True)

    def _read_all(self) -> list[tuple[Labels, Head]]:
        found: list[tuple[Labels, Head]] = []
        if self._folder is None:
            return found
        size = 0
        with suppress(OSError):
            for path in self._files():
                read = _read(path, self._identity)
                if read is not None and (size := size + size_of(*read)) <= self._most_bytes:
                    found.append(read)
        return found


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _read(path: Path, identity: str) -> tuple[Labels, Head] | None:
    """Return a set of this tower's; None for another's. What is damaged is removed."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        # Not by the library: it would hold up all other threads while a disk is slow.
        content = path.read_bytes()
        weight = load(content)["weight"]
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about: Mapping[str, str] = header.get("__metadata__", {})
        if about.get("identity") != identity:
            return None
        labels, templates = tuple(json.loads(about["labels"])), tuple(json.loads(about["templates"]))
        if weight.ndim != 2 or len(weight) != len(labels) or not np.isfinite(weight).all():
            raise ValueError
        return Labels(labels, templates), Head(labels, np.asarray(weight, np.float32))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OSError):
        with suppress(OSError):
            path.unlink()
        return None
