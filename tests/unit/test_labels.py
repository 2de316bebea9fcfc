"""Labels of requests: each set is encoded once, whoever asks, and found again after a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect

from vitruvian.inference.admission import Ticket
from vitruvian.inference.builds import Build, Builds
from vitruvian.inference.labels import MOST_LABELS, Labels, LabelSets, read_labels
from vitruvian.inference.problems import Problem
from vitruvian.inference.protocol import Malformed

T = TypeVar("T")
USUAL = ("a photo of {}.",)
LONGEST = 60
ROOM_FOR_THREE = 3 * 800


class Tower:
    """Embeds a text by its letters, and notes what it was given."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.texts: list[str] = []
        self.seconds = seconds

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        time.sleep(self.seconds * len(texts))
        self.texts += texts
        rows = np.zeros((len(texts), 128), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for letter in text:
                row[ord(letter) % 128] += 1
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    def too_long(self, texts: Sequence[str]) -> int | None:
        return next((at for at, text in enumerate(texts) if len(text) > LONGEST), None)


async def in_thread(job: Callable[[], Any], ticket: Ticket, seconds: float) -> Any:
    return await asyncio.to_thread(job)


def sets(tower: Tower, folder: Path | None = None, **more: Any) -> LabelSets:
    return LabelSets(lambda: tower, in_thread, scale=10.0, identity="tower", templates=USUAL, folder=folder, **more)


def run(make: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        return await make()

    return asyncio.run(main())


def asked(*labels: str, templates: tuple[str, ...] = USUAL) -> Labels:
    return Labels(labels, templates)


def test_a_label_is_the_mean_of_its_sentences() -> None:
    tower = Tower()
    wanted = asked("run", "sit", templates=("{}", "a {} person"))
    head = run(lambda: sets(tower).head(wanted, Ticket(60)))
    mean = tower.encode(["run", "a run person"]).mean(0)
    assert head.labels == ("run", "sit")
    assert head.weight[0] == pytest.approx(10 * mean / np.linalg.norm(mean), abs=1e-6)


def test_many_who_ask_first_have_a_set_encoded_once() -> None:
    tower = Tower(0.002)
    known = sets(tower)

    async def main() -> list[Any]:
        return await asyncio.gather(*(known.head(asked("run", "sit", "lie"), Ticket(60)) for _ in range(20)))

    heads = run(main)
    assert sorted(tower.texts) == ["a photo of lie.", "a photo of run.", "a photo of sit."]
    assert all(head is heads[0] for head in heads)


def test_a_set_takes_what_another_set_has() -> None:
    tower = Tower()
    known = sets(tower)

    async def main() -> None:
        first = await known.head(asked("run", "sit"), Ticket(60))
        second = await known.head(asked("lie", "run"), Ticket(60))
        assert second.weight[1] == pytest.approx(first.weight[0], abs=1e-6)

    run(main)
    assert tower.texts == ["a photo of run.", "a photo of sit.", "a photo of lie."]


def test_a_set_that_takes_too_long_goes_on_and_is_there_later() -> None:
    tower = Tower(0.02)
    known = sets(tower)
    wanted = asked(*(f"label {number}" for number in range(10)))

    async def main() -> None:
        with pytest.raises(Problem) as raised:
            await known.head(wanted, Ticket(0.05))
        assert raised.value.kind.status == 429
        assert int(raised.value.headers["Retry-After"]) >= 1
        assert len((await known.head(wanted, Ticket(60))).labels) == 10

    run(main)
    assert len(tower.texts) == 10


def test_a_tower_that_fails_fails_who_waits_and_is_tried_again() -> None:
    class Flaky(Tower):
        def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
            if not self.texts:
                self.texts.append("failed")
                raise RuntimeError("once")
            return super().encode(texts)

    known = sets(Flaky())

    async def main() -> None:
        with pytest.raises(RuntimeError):
            await known.head(asked("run"), Ticket(60))
        assert (await known.head(asked("run"), Ticket(60))).labels == ("run",)

    run(main)


def test_memory_is_bounded_by_bytes() -> None:
    known = sets(Tower(), most_bytes=ROOM_FOR_THREE)

    async def main() -> None:
        for number in range(20):
            await known.head(asked(f"label {number}"), Ticket(60))
        await known.head(asked("label 19"), Ticket(60))

    run(main)
    assert len(known.known) == 3


def many(name: str, count: int) -> Labels:
    return asked(*(f"{name} {number}" for number in range(count)))


def test_memory_counts_the_texts_and_the_sets() -> None:
    sentences = tuple(f"{{}} {number} " + "\U0001f600" * 40 for number in range(100))
    known = sets(Tower(), most_bytes=100_000)

    async def main() -> None:
        for number in range(10):
            await known.head(asked(f"{number}", templates=(*sentences, f"{{}} {number}")), Ticket(60))

    run(main)
    # Each has 512 bytes of weights, and about 28 kB of sentences.
    assert len(known.known) == 3


def test_no_more_than_a_thousand_sets_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitruvian.inference.labels._MOST_SETS", 5)
    known = sets(Tower())

    async def main() -> None:
        for number in range(8):
            await known.head(asked(f"{number}"), Ticket(60))

    run(main)
    assert known.known == [asked(f"{number}") for number in range(3, 8)]


def test_what_a_dropped_set_had_is_encoded_again() -> None:
    tower = Tower()
    known = sets(tower, most_bytes=ROOM_FOR_THREE)

    async def main() -> None:
        for label in ("run", "sit", "lie", "jump", "run"):
            await known.head(asked(label), Ticket(60))

    run(main)
    assert tower.texts.count("a photo of run.") == 2
    assert known.known == [asked("lie"), asked("jump"), asked("run")]


def test_more_seconds_of_labels_than_can_be_waited_for_are_refused() -> None:
    # Ten seconds each, as long as nothing is known of the tower.
    known = sets(Tower())

    async def main() -> list[Any]:
        calls = (known.head(many(f"set {number}", 200), Ticket(60)) for number in range(6))
        return await asyncio.gather(*calls, return_exceptions=True)

    outcomes = run(main)
    assert [isinstance(outcome, Problem) for outcome in outcomes] == [False] * 4 + [True] * 2
    assert outcomes[-1].kind.slug == "busy" and int(outcomes[-1].headers["Retry-After"]) >= 30


def test_whoever_asks_for_large_sets_and_leaves_shuts_nobody_out() -> None:
    tower = Tower(0.001)
    known = sets(tower)

    async def main() -> None:
        large = [asyncio.create_task(known.head(many(f"set {number}", 1000), Ticket(0.2))) for number in range(8)]
        await asyncio.sleep(0.1)
        assert (await known.head(asked("run", "sit"), Ticket(60))).labels == ("run", "sit")
        # It didn't wait for any of them.
        assert len(tower.texts) < 1000
        outcomes = await asyncio.gather(*large, return_exceptions=True)
        assert all(isinstance(outcome, Problem) for outcome in outcomes)
        assert (await known.head(asked("lie", "sit"), Ticket(60))).labels == ("lie", "sit")

    run(main)


def test_a_set_whose_client_left_is_given_up_between_two_parts_of_it() -> None:
    tower = Tower(0.001)
    known = sets(tower)

    async def main() -> None:
        ticket = Ticket(60)
        waiting = asyncio.create_task(known.head(many("label", 1000), ticket))
        while not tower.texts:
            await asyncio.sleep(0.01)
        ticket.leave()
        with pytest.raises(ClientDisconnect):
            await waiting
        await asyncio.sleep(0.1)
        encoded = len(tower.texts)
        await asyncio.sleep(0.1)
        assert len(tower.texts) == encoded < 1000

    run(main)


def test_a_set_that_another_waits_for_goes_on_when_the_first_leaves() -> None:
    known = sets(Tower(0.005))
    wanted = many("label", 30)

    async def main() -> None:
        ticket = Ticket(60)
        first = asyncio.create_task(known.head(wanted, ticket))
        second = asyncio.create_task(known.head(wanted, Ticket(60)))
        await asyncio.sleep(0.05)
        ticket.leave()
        with pytest.raises(ClientDisconnect):
            await first
        assert len((await second).labels) == 30

    run(main)


def test_a_set_that_nobody_comes_again_for_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitruvian.inference.builds._PATIENCE", 0.0)
    monkeypatch.setattr("vitruvian.inference.builds._GRACE", 0.05)
    tower = Tower(0.002)
    known = sets(tower)

    async def main() -> None:
        with pytest.raises(Problem):
            await known.head(many("label", 1000), Ticket(0.05))
        await asyncio.sleep(0.3)
        encoded = len(tower.texts)
        await asyncio.sleep(0.1)
        assert len(tower.texts) == encoded < 1000
        assert (await known.head(asked("run"), Ticket(60))).labels == ("run",)

    run(main)


def test_no_more_seconds_are_kept_of_what_nobody_waits_for_than_can_be_waited_for() -> None:
    async def endless(build: Build[None]) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        builds: Builds[int, None] = Builds()
        for number in range(8):
            build = builds.begin(number, 20, 1.0, endless, lambda made: None)
            assert not await builds.wait(number, build, Ticket(0.0), 1.0)
        # The first, which came first, and the last, for which room was made.
        assert [number for number in range(8) if builds.get(number)] == [0, 7]

    run(main)


def test_a_label_that_isnt_read_to_its_end_is_refused_by_name() -> None:
    tower = Tower()
    known = sets(tower)
    wanted = asked("run", "x" * 50, templates=("{}", "a sketch of a person, {}"))

    async def main() -> None:
        with pytest.raises(Problem, match=r"the label 'x+' is too long for this model in the template 'a sketch") as no:
            await known.head(wanted, Ticket(60))
        assert no.value.kind.status == 422

    run(main)
    assert tower.texts == []


def test_sets_are_found_again_after_a_restart(tmp_path: Path) -> None:
    first = run(lambda: sets(Tower(), tmp_path).head(asked("run", "sit"), Ticket(60)))
    tower = Tower()
    again = sets(tower, tmp_path)

    async def main() -> Any:
        await again.warm()
        return await again.head(asked("run", "sit"), Ticket(60))

    assert (run(main).weight == first.weight).all()
    assert tower.texts == []


def test_what_memory_dropped_is_found_on_disk(tmp_path: Path) -> None:
    pairs = asked("run", "sit"), asked("lie", "jump")

    async def main(known: LabelSets) -> list[Any]:
        return [await known.head(pair, Ticket(60)) for pair in (*pairs, *pairs)]

    first = run(lambda: main(sets(Tower(), tmp_path)))
    tower = Tower()
    small = sets(tower, tmp_path, most_bytes=ROOM_FOR_THREE)
    again = run(lambda: main(small))
    assert small.known == [pairs[1]]
    assert all((one.weight == other.weight).all() for one, other in zip(first, again, strict=True))
    assert tower.texts == []


def test_warming_fills_what_room_there_is_and_drops_nothing_that_was_asked_for(tmp_path: Path) -> None:
    known, other = sets(Tower(), tmp_path, most_bytes=ROOM_FOR_THREE), sets(Tower(), tmp_path)

    async def main() -> None:
        for label in ("run", "sit"):
            await known.head(asked(label), Ticket(60))
        for label in ("lie", "jump"):
            await other.head(asked(label), Ticket(60))
        await known.warm()
        assert known.known == [asked("jump"), asked("run"), asked("sit")]
        await known.head(asked("stand"), Ticket(60))
        assert known.known == [asked("run"), asked("sit"), asked("stand")]

    run(main)


def test_sets_of_another_tower_and_damaged_files_are_left_out(tmp_path: Path) -> None:
    run(lambda: sets(Tower(), tmp_path).head(asked("run", "sit"), Ticket(60)))
    (kept,) = tmp_path.glob("*.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(kept.read_bytes()[:-7])
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    other = LabelSets(Tower, in_thread, scale=10.0, identity="another", templates=USUAL, folder=tmp_path)
    run(other.warm)
    assert other.known == []
    assert list(tmp_path.glob("*.safetensors")) == [kept]


def test_a_folder_that_cant_be_written_only_costs_the_memory_of_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    head = run(lambda: sets(Tower(), tmp_path / "file" / "labels").head(asked("run"), Ticket(60)))
    assert head.labels == ("run",)


@pytest.mark.parametrize(
    ("labels", "templates", "words"),
    [
        ("run", None, "not a list"),
        ([], None, "0 texts"),
        ([1], None, "not a list"),
        (["run", " run "], None, "twice"),
        (["  "], None, "0 characters"),
        (["x" * 201], None, "201 characters"),
        ([f"{number}" for number in range(MOST_LABELS + 1)], None, "1001 texts"),
        (["run"], [], "0 texts"),
        (["run"], ["no place"], "needs {} once"),
        (["run"], ["{} {}"], "needs {} once"),
        ([f"{number}" for number in range(1000)], ["{}" + "." * at for at in range(9)], "more than 8192"),
    ],
)
def test_labels_that_cant_be_are_refused(labels: object, templates: object, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        read_labels(labels, templates, USUAL)


def test_labels_are_read_with_single_spaces_and_the_usual_templates() -> None:
    assert read_labels([" arms  raised ", "sitting"], None, USUAL) == asked("arms raised", "sitting")
