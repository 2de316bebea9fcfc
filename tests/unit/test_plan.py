"""A plan's arithmetic, and what it refuses."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from rich.console import Console

from vitruvian.errors import SpecError
from vitruvian.models.inputs import preprocess_for
from vitruvian.models.registry import architecture
from vitruvian.planning import console as shown
from vitruvian.planning import devices, duration
from vitruvian.planning.advise import DoesNotFit, check
from vitruvian.planning.devices import GPUS, Device, asked, cpu, priced
from vitruvian.planning.duration import Work
from vitruvian.planning.memory import Setting, checkpoint_bytes, needed
from vitruvian.planning.plan import Examples, make, offer
from vitruvian.spec import Classifier, Model, Strategy
from vitruvian.training.counts import Cost, Counts, Line, Measured, Parameter, Way
from vitruvian.training.measure import count, inside, measure
from vitruvian.training.parallel import recompute

MIB, GIB = 2**20, 2**30
SMALL = {"imageSize": 32, "patchSize": 8, "hiddenSize": 32, "layers": 2, "heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "vit": {"architecture": "vit", "dimensions": SMALL},
    "vit, frozen": {"architecture": "vit", "dimensions": SMALL, "freezeLayers": 1},
    "clip, prompts": {"architecture": "clip", "dimensions": SMALL},
    "clip, linear": {"architecture": "clip", "dimensions": SMALL, "clip": {"head": "linear", "unfreezeVisual": 1}},
    "resnet50": {"architecture": "resnet50", "dimensions": {"imageSize": 32}},
    "heatmap-cnn": {"architecture": "heatmap-cnn"},
}
CLASSES = ("a", "b", "c")


def counts(values: int = 25 * MIB, each: float = 100 * MIB) -> Counts:
    """A model of one matrix that learns, 100 MiB in float32, and one value that doesn't."""
    return Counts(
        parameters=(Parameter(1024, values, True), Parameter(1, 1, False)),
        buffers=0,
        saved_buffers=0,
        repeats=True,
        gathered=10 * MIB,
        rest=5 * MIB,
        input_values=1000,
        cost=lambda way: cost(each / 4 if way.recomputes else each, int(way.halved) * MIB),
    )


def cost(each: float, copies: int, validation: float = 0) -> Cost:
    """What a step of a model costs that keeps so many bytes of each example."""
    return Cost(
        copies=copies,
        activations=Line(0, each),
        forward_peak=Line(0, each),
        backward_peak=Line(0, each),
        validation_peak=Line(0, validation),
        forward=Line(0, 1e12),
        backward=Line(0, 2e12),
        validation=Line(0, 1e12),
    )


@pytest.mark.parametrize(
    ("strategy", "workers", "expected"),
    [
        ("none", 1, {"weights": 100, "gradients": 100, "optimizer": 200, "buckets": 0, "gathered": 0}),
        ("ddp", 4, {"weights": 100, "gradients": 100, "optimizer": 200, "buckets": 100, "gathered": 0}),
        ("fsdp", 4, {"weights": 25, "gradients": 25, "optimizer": 50, "buckets": 0, "gathered": 65}),
        # One worker shares with nobody.
        ("ddp", 1, {"weights": 100, "gradients": 100, "optimizer": 200, "buckets": 0, "gathered": 0}),
        ("fsdp", 1, {"weights": 100, "gradients": 100, "optimizer": 200, "buckets": 0, "gathered": 0}),
    ],
)
def test_each_line_of_memory_follows_from_the_strategy(
    strategy: Strategy, workers: int, expected: dict[str, float]
) -> None:
    found = needed(counts(), Setting(strategy, workers, 64))
    # The frozen value and the optimizer's step are a few bytes.
    assert {name: round(getattr(found, name) / MIB, 4) for name in expected} == expected
    assert found.activations == 64 / workers * 100 * MIB
    assert found.total == sum(vars(found).values())


def test_validation_counts_where_it_takes_more_than_a_step() -> None:
    hungry = replace(counts(), cost=lambda way: cost(100 * MIB, 0, validation=10 * MIB))
    found = needed(hungry, Setting("none", 1, 1))
    assert found.activations + found.working == 256 * 10 * MIB


@pytest.mark.parametrize(
    ("device", "setting", "parts"),
    [
        # 640 examples are 62.5 GiB.
        (
            "a10g",
            Setting("ddp", 2, 640),
            ("ddp: training needs 34", "an a10g has 22.0 GiB", "fsdp with 4 workers fits"),
        ),
        ("a10g", Setting("ddp", 2, 640), ("batchSize: 320 fits with 17", "an a100-40 has 39.4 GiB")),
        # What computes the same steps comes first, in as few parts as fit.
        ("a10g", Setting("ddp", 2, 640), ("an a10g has 22.0 GiB; accumulate: 2 fits with 17",)),
        ("a10g", Setting("ddp", 2, 960), ("; accumulate: 3 fits with 17",)),
        ("a10g", Setting("ddp", 2, 960, accumulate=2), ("; accumulate: 3 fits with 17",)),
        # Computing again needs no more GPUs, and is told before those that do.
        ("a10g", Setting("ddp", 2, 640), ("activationCheckpointing: true fits with 9.5 GiB, and", "more; or strategy")),
        ("a10g", Setting("none", 1, 256), ("fsdp with 2 workers", "batchSize: 128", "an a100-40")),
        ("h200", Setting("none", 1, 2048), ("fsdp with 2 workers", "batchSize: 1024")),
        # A step of one example can't be made smaller, only shared out.
        ("t4", Setting("ddp", 4, 4), ("fsdp with 4 workers",)),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(device: str, setting: Setting, parts: tuple[str, ...]) -> None:
    model = counts(values=1024 * MIB) if device == "t4" else counts()
    with pytest.raises(DoesNotFit) as e:
        check(model, setting, GPUS[device], GPUS.values())
    line = str(e.value)
    assert "\n" not in line
    for part in parts:
        assert part in line, line
    assert e.value.exit_code != 0


def test_what_is_advised_fits() -> None:
    setting = Setting("ddp", 2, 640)
    for better in (replace(setting, accumulate=2), Setting("fsdp", 4, 640), replace(setting, batch=320)):
        check(counts(), better, GPUS["a10g"])


def test_what_is_offloaded_takes_no_memory_of_a_gpu() -> None:
    setting = Setting("fsdp", 2, 64)
    kept, offloaded = needed(counts(), setting), needed(counts(), replace(setting, offloads=True))
    assert kept.weights and kept.gradients and kept.optimizer
    assert (offloaded.weights, offloaded.gradients, offloaded.optimizer) == (counts().buffers, 0, 0)
    assert (offloaded.gathered, offloaded.activations) == (kept.gathered, kept.activations)
    for other in (replace(setting, workers=1), replace(setting, strategy="ddp")):
        assert needed(counts(), replace(other, offloads=True)) == needed(counts(), other)


def test_what_can_be_shared_out_no_further_is_advised_to_be_offloaded() -> None:
    heavy, setting = counts(values=2048 * MIB), Setting("fsdp", 2, 2)
    with pytest.raises(DoesNotFit, match="strategy: fsdp with cpuOffload: true fits with"):
        check(heavy, setting, GPUS["t4"])
    check(heavy, replace(setting, offloads=True), GPUS["t4"])


def test_no_advice_leaves_a_part_of_a_step_without_an_example() -> None:
    # Shared out over two workers this fits, but four examples aren't four parts of two workers.
    heavy, setting = counts(values=2048 * MIB), Setting("none", 1, 4, accumulate=4)
    check(heavy, Setting("fsdp", 2, 4), GPUS["a10g"])
    with pytest.raises(DoesNotFit) as e:
        check(heavy, setting, GPUS["a10g"])
    for way in ("accumulate: ", "batchSize: ", "fsdp with"):
        assert way not in str(e.value)


@pytest.mark.parametrize(
    ("repeats", "recomputes", "named"),
    # Without layers that repeat there is nothing to compute again.
    [(True, False, True), (True, True, False), (False, False, False)],
)
def test_computing_again_is_advised_where_it_is_what_fits(repeats: bool, recomputes: bool, named: bool) -> None:
    model = replace(counts(each=(120 if recomputes else 30) * GIB), repeats=repeats)
    with pytest.raises(DoesNotFit) as e:
        check(model, Setting("none", 1, 2, recomputes=recomputes), GPUS["a10g"])
    assert ("activationCheckpointing: true fits" in str(e.value)) is named
    assert ("choose a smaller model" in str(e.value)) is not named


@pytest.mark.parametrize(
    ("precision", "kind", "halved"),
    [
        ("auto", "gpu", True),
        ("auto", "cpu", False),
        ("fp32", "gpu", False),
        ("bf16", "cpu", True),
        ("fp16", "gpu", True),
    ],
)
def test_what_is_kept_follows_from_the_precision(precision: Any, kind: str, halved: bool) -> None:
    setting = Setting("none", 1, 64, precision=precision)
    assert setting.way(kind) == Way(halved, recomputes=False)
    assert needed(counts(), setting, kind).copies == (MIB if halved else 0)
    # What fsdp shares out arrives in 16 bits.
    assert needed(counts(), replace(setting, strategy="fsdp", workers=2), kind).copies == 0


def test_more_processes_on_this_machine_get_no_more_of_its_memory() -> None:
    with pytest.raises(DoesNotFit) as e:
        check(counts(), Setting("ddp", 2, 64), cpu(4 * GIB, None, 2), GPUS.values())
    assert "a worker's share of this machine has 2.0 GiB" in str(e.value)
    assert "batchSize: 8 fits" in str(e.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [("a10g:4", ("a10g", 4)), ("T4", ("t4", 3)), ("cpu:2", ("cpu", 2)), ("a100-80:1", ("a100-80", 1))],
)
def test_a_device_is_a_name_and_a_number(text: str, found: tuple[str, int]) -> None:
    assert asked(text, 3) == found


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a10:4", "did you mean 'a10g'?"),
        ("a100", "did you mean 'a100-"),
        ("h20", "did you mean 'h200'?"),
        ("", "known: t4"),
        ("xyz:2", "known: t4"),
        ("a10g:0", "write a10g:4"),
        ("a10g:-1", "write a10g:4"),
        ("a10g:two", "write a10g:4"),
        ("a10g:", "write a10g:4"),
        ("a10g:99999", "write a10g:4"),
    ],
)
def test_a_device_that_is_not_known_is_refused_with_the_nearest(text: str, hint: str) -> None:
    with pytest.raises(SpecError) as e:
        asked(text, 1)
    assert "--gpus" in str(e.value) and hint in str(e.value)


def test_prices_are_a_users_own(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("g5.xlarge: 0.5\n")
    found = {machine.name: machine.dollars for machine in priced(file)["a10g"].machines}
    assert found["g5.xlarge"] == 0.5 and found["g5.12xlarge"] == GPUS["a10g"].machines[1].dollars


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("g5.xlage: 1", "did you mean 'g5.xlarge'?"),
        ("g5.xlarge: free", "is no price"),
        ("g5.xlarge: -1", "is no price"),
        ("g5.xlarge: true", "is no price"),
        ("- 1", "is no map"),
        ("a: [", "is not valid YAML"),
        (None, "no such file"),
    ],
)
def test_prices_that_are_none_are_refused(tmp_path: Path, content: str | None, part: str) -> None:
    file = tmp_path / "prices.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SpecError) as e:
        priced(file)
    assert part in str(e.value)


def work(**changes: Any) -> Work:
    return Work(**{"counts": counts(), "training": 640, "validation": 64, "epochs": 2, "input_seconds": 0.0, **changes})


def test_a_step_is_operations_through_what_the_device_reaches() -> None:
    device = replace(GPUS["a10g"], peak={"fp32": 10e12, "bf16": 70e12})
    found = duration.step(work(precision="fp32"), Setting("none", 1, 64), device, device.machines[0], 0.5)
    assert found.computing == pytest.approx(64 * 3e12 / 5e12)
    assert found.waiting == 0


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_traffic_hides_behind_computing_as_far_as_it_can(strategy: Strategy) -> None:
    device, setting = GPUS["a10g"], Setting(strategy, 8, 8)
    one, several = device.machines[2], device.machines[0]
    slow = duration.step(work(), setting, device, several, 0.5).waiting
    assert slow > duration.step(work(), setting, device, one, 0.5).waiting
    # A large step computes for longer than the same gradients travel.
    assert duration.step(work(), replace(setting, batch=800), device, several, 0.5).waiting < slow


@pytest.mark.parametrize(
    ("every", "training", "checkpoints"), [(None, 640, 1), (3, 640, 4), (10, 640, 1), (9, 640, 2), (1, 640, 10)]
)
def test_checkpoints_are_counted_as_the_loop_makes_them(every: int | None, training: int, checkpoints: int) -> None:
    # Ten steps; the one at the end of an epoch is the epoch's own.
    done = work(every_steps=every, training=training)
    assert duration.saved(done, Setting("none", 1, 64)) == checkpoints
    found = duration.traffic(done, Setting("none", 1, 64))
    assert found.checkpoint == checkpoint_bytes(counts())
    assert found.written > 2 * checkpoints * found.checkpoint


def test_the_machines_are_those_that_cost_least() -> None:
    assert offer(work(), Setting("none", 1, 64), GPUS["a10g"]).machine == GPUS["a10g"].machines[0]
    # Four GPUs in four machines would wait for their small network.
    heavy = work(counts=counts(values=1024 * MIB, each=0.0))
    found = offer(heavy, Setting("ddp", 4, 8), GPUS["a10g"])
    assert found.machine == GPUS["a10g"].machines[1] and found.machines == 1


def test_without_a_measurement_this_machines_time_is_not_told() -> None:
    found = offer(work(), Setting("none", 1, 64), cpu(64 * GIB, None, 1))
    assert found.seconds is None and found.dollars is None
    timed = offer(work(), Setting("none", 1, 64), cpu(64 * GIB, 1e12, 1))
    assert timed.seconds is not None and timed.seconds[0] == timed.seconds[2] > 640 * 3 * 2


def test_programs_read_what_people_do() -> None:
    examples = Examples(640, 64, CLASSES, "counted")
    made = make("yoga", "vit", examples, work(), Setting("ddp", 2, 64), GPUS["a10g"], GPUS, None)
    found = json.loads(shown.machine_readable(made))
    assert found["fits"] is True and found["plan"]["device"] == "a10g" and len(found["gpus"]) == len(GPUS)
    assert found["memory"]["ddp"]["total"] == found["plan"]["needs"]
    assert sum(value for name, value in found["memory"]["ddp"].items() if name not in ("workers", "total")) == (
        pytest.approx(found["plan"]["needs"])
    )


def test_every_gpu_has_a_machine_and_a_price() -> None:
    for device in GPUS.values():
        assert device.machines and all(machine.dollars > 0 for machine in device.machines)
        assert "fp32" in device.peak
    assert devices.CPU not in GPUS


@pytest.mark.parametrize(
    ("asked", "name", "used"),
    [
        ("auto", "t4", "fp16"),
        ("auto", "a10g", "bf16"),
        ("auto", "cpu", "fp32"),
        ("fp32", "h100", "fp32"),
        ("bf16", "h100", "bf16"),
        # It multiplies bfloat16, but no faster.
        ("bf16", "t4", "fp32"),
        ("bf16", "cpu", "fp32"),
        ("fp16", "t4", "fp16"),
        ("fp16", "h100", "fp16"),
        ("fp16", "cpu", "fp32"),
    ],
)
def test_each_device_computes_in_what_the_precision_means_on_it(asked: Any, name: str, used: str) -> None:
    device = GPUS.get(name) or cpu(64 * GIB, 1e12, 1)
    assert device.precision(asked) == used


@pytest.mark.parametrize("planned", ["t4", "a10g", "cpu"])
def test_a_gpu_takes_as_long_whichever_is_planned(planned: str) -> None:
    examples, setting = Examples(640, 64, CLASSES, "counted"), Setting("none", 1, 64)
    device = GPUS.get(planned) or cpu(64 * GIB, 1e12, 1)
    others = make("yoga", "vit", examples, work(), setting, device, GPUS, None).others
    assert others == tuple(offer(work(), setting, gpu) for gpu in GPUS.values())
    assert {each.device.name: each.precision for each in others}["t4"] == "fp16"
    assert all(each.precision == "bf16" for each in others if each.device.name != "t4")


def test_a_plan_for_this_machine_says_how_much_its_steps_differed() -> None:
    measured = Measured("the CPU", 64, 3, step_seconds=0.2, fastest=0.1, slowest=0.8, flops=1e12, input_seconds=0.001)
    found = offer(work(), Setting("none", 1, 64), cpu(64 * GIB, 1e12, 1, measured.reached))
    assert found.durations is not None
    fast, usual, slow = (each.step.computing for each in found.durations)
    assert [fast, slow] == pytest.approx([usual / 2, usual * 4])
    console = Console(file=io.StringIO(), width=200)
    made = make(
        "yoga", "vit", Examples(640, 64, CLASSES, "counted"), work(), found.setting, found.device, GPUS, measured
    )
    shown.show(console, made)
    said = " ".join(cast(io.StringIO, console.file).getvalue().split())
    assert "3 steps of 64 examples on the CPU, 0.2 s; from 0.1 s to 0.8 s" in said


def lines(setting: Setting, device: Device, width: int, **changes: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    examples = Examples(640, 64, CLASSES, "counted")
    shown.show(console, make("yoga", "vit", examples, work(**changes), setting, device, GPUS, None))
    return cast(io.StringIO, console.file).getvalue().splitlines()


def printed(setting: Setting, device: Device, **changes: Any) -> str:
    return " ".join(" ".join(lines(setting, device, 100, **changes)).split())


@pytest.mark.parametrize("workers", [1, 8, 64])
@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_a_plan_fits_into_a_terminal_with_each_machine_on_a_line_and_its_name_whole(width: int, workers: int) -> None:
    told = lines(Setting("ddp" if workers > 1 else "none", workers, 64), GPUS["a10g"], width)
    assert max(map(len, told)) <= width
    head, *rows = told[next(number for number, line in enumerate(told) if line.split()[:1] == ["GPU"]) :]
    assert [row.split()[0] for row in rows[: len(GPUS)]] == list(GPUS)
    machines = {machine.name for device in GPUS.values() for machine in device.machines}
    assert all(row.split()[-1] in machines for row in rows[: len(GPUS)])
    assert ("peak" in head) is (width > 60)


@pytest.mark.parametrize(
    ("flops", "said"),
    [(2.5e6, "0.0025 GFLOP/s"), (3.4e8, "0.34 GFLOP/s"), (1.26e10, "12.6 GFLOP/s"), (1.234e12, "1,234 GFLOP/s")],
)
def test_what_a_small_model_reaches_is_no_0(flops: float, said: str) -> None:
    assert shown._speed(flops) == said


@pytest.mark.parametrize(("dollars", "said"), [(0.0002, "<$0.01"), (0.014, "$0.01"), (1234.5, "$1,234.50")])
def test_what_costs_less_than_a_cent_is_not_free(dollars: float, said: str) -> None:
    assert shown._dollars(dollars) == said


@pytest.mark.parametrize(
    ("precision", "said"),
    [
        ("auto", "GPUs reach 20% to 50% of their bf16 or fp16 peak, and"),
        ("bf16", "GPUs reach 20% to 50% of their bf16 peak and 35% to 70% of their float32 peak"),
        ("fp32", "GPUs reach 35% to 70% of their float32 peak, and"),
    ],
)
def test_people_see_which_peak_counts(precision: str, said: str) -> None:
    assert said in printed(Setting("none", 1, 64), GPUS["a10g"], precision=precision)


def test_a_plan_that_does_not_fit_has_no_time_or_cost() -> None:
    for batch, fits in ((64, True), (640, False)):
        text = printed(Setting("none", 1, batch), GPUS["a10g"])
        assert ("Time and cost" in text) is ("an hour" in text) is fits
        assert "The same on one GPU" in text
        assert "start-up, about 20 s" in text


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.0040, 0.00401, ""), (0.004, 0.004, ""), (0.004, 0.005, "from 4.0 ms to 5.0 ms")]
)
def test_a_range_whose_ends_read_the_same_is_none(low: float, high: float, said: str) -> None:
    assert shown._range(low, high, shown._seconds) == said


@pytest.mark.parametrize("way", [Way(False, False), Way(True, False), Way(False, True), Way(True, True)])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_counted_is_what_a_real_step_keeps(name: str, way: Way) -> None:
    model = Model.model_validate(MODELS[name])
    found = count(model, CLASSES).cost(way)
    module = architecture(model.architecture).build(model, CLASSES)
    if way.recomputes:
        recompute(module)
    real = inside(module, torch.zeros(5, *preprocess_for(model).tensor_shape), halved=way.halved)
    assert found.copies == pytest.approx(real["copies"], rel=0.02)
    for part in ("forward", "backward", "validation"):
        assert getattr(found, part).at(5) == real[part], part
    # A CPU's own kernels for 16 bits keep a little else.
    exactly = way == Way(False, False)
    assert found.activations.at(5) == pytest.approx(real["activations"], rel=0 if exactly else 0.03)
    if not way.recomputes:
        # Passing tensors of a few small examples don't grow evenly: from five on the line is above them.
        assert found.forward_peak.at(5) >= 0.9 * real["forward_peak"]


def test_what_was_computed_again_goes_as_the_backward_pass_has_used_it() -> None:
    model = Model.model_validate({"architecture": "vit", "dimensions": SMALL | {"layers": 6}})
    whole, again = (count(model, CLASSES).cost(Way(False, recomputes)) for recomputes in (False, True))
    # One layer of six, and what goes into each.
    assert again.backward_peak.at(64) < 0.5 * whole.backward_peak.at(64)


def test_16_bits_and_computing_again_keep_less_and_do_as_much_or_more() -> None:
    cost = count(Model.model_validate(MODELS["vit"]), CLASSES).cost
    whole, halved, again = (cost(way) for way in (Way(False, False), Way(True, False), Way(False, True)))
    assert whole.copies == 0 and halved.copies > 0
    assert halved.activations.at(64) < 0.7 * whole.activations.at(64)
    assert again.activations.at(64) < 0.5 * whole.activations.at(64)
    assert (halved.forward, halved.backward) == (whole.forward, whole.backward)
    assert again.forward == whole.forward
    assert again.backward.at(64) == pytest.approx(whole.backward.at(64) + whole.forward.at(64), rel=0.2)


@pytest.mark.parametrize("name", ["vit, frozen", "heatmap-cnn"])
def test_a_measurement_makes_real_steps(name: str) -> None:
    model = Model.model_validate(MODELS[name])
    declared = {"source": "synthetic://poses", "format": "heatmaps" if name == "heatmap-cnn" else "images"}
    spec = Classifier.model_validate(
        {"metadata": {"name": "tiny"}, "spec": {"data": declared, "model": MODELS[name]}}
    ).spec
    found = measure(spec, CLASSES, count(model, CLASSES), batch=4)
    assert 1 <= found.batch <= 4 and found.steps >= 1
    work = count(model, CLASSES).cost(Way(False, False))
    operations = work.forward.at(found.batch) + work.backward.at(found.batch)
    assert found.flops == pytest.approx(operations / found.step_seconds)
    assert found.input_seconds > 0


@pytest.mark.parametrize(("precision", "halved"), [("auto", False), ("bf16", True)])
def test_a_measurement_multiplies_as_the_training_would(
    precision: str, halved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    def watched(*args: Any, **options: Any) -> torch.autocast:
        seen.add(options["enabled"])
        return autocast(*args, **options)

    autocast = torch.autocast
    counts = count(Model.model_validate(MODELS["vit"]), CLASSES)
    counts.cost(Way(halved=True, recomputes=False))
    counts.cost(Way(halved=False, recomputes=False))
    monkeypatch.setattr(torch, "autocast", watched)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    declared = {
        "data": {"source": "synthetic://poses"},
        "model": MODELS["vit"],
        "training": {"precision": precision},
    }
    spec = Classifier.model_validate({"metadata": {"name": "tiny"}, "spec": declared}).spec
    measure(spec, CLASSES, counts, batch=2)
    assert seen == {halved}
