"""What a model costs in numbers; torch isn't needed to understand it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A number that grows with the examples of a worker's step: what it begins with, and what each one adds."""

    fixed: float
    each: float

    def at(self, examples: int) -> float:
        """Return the number for so many examples."""
        return self.fixed + self.each * examples


@dataclass(frozen=True)
class Parameter:
    """A tensor of weights as it is shared out: by its first dimension."""

    rows: int
    values: int
    learns: bool


@dataclass(frozen=True)
class Way:
    """How a step is computed, as far as what it keeps goes."""

    halved: bool
    """Whether matrices are multiplied in 16 bits."""
    recomputes: bool
    """Whether only what goes into each layer that repeats is kept, and the rest computed again."""


@dataclass(frozen=True)
class Cost:
    """What a step and a pass of validation hold and do one way: bytes and floating-point operations."""

    copies: int
    """Bytes of the weights' copies in 16 bits, the most at once; they are in none of the lines."""
    activations: Line
    """Bytes that the forward pass keeps for the backward pass."""
    forward_peak: Line
    """The most bytes that live at once in the forward pass, weights left out."""
    backward_peak: Line
    """The same of the backward pass, gradients included as they come."""
    validation_peak: Line
    """The same of a forward pass that keeps nothing."""
    forward: Line
    """Operations of a forward pass; a multiplication with its addition is two."""
    backward: Line
    """With those of what is computed again."""
    validation: Line


@dataclass(frozen=True)
class Counts:
    """What a module holds, weights in float32, and what it does."""

    parameters: tuple[Parameter, ...]
    buffers: int
    """Bytes of what is no weight, such as running statistics."""
    saved_buffers: int
    """Bytes of those buffers that checkpoints hold."""
    repeats: bool
    """Whether it has layers that can be computed again."""
    gathered: int
    """Bytes of the most that fsdp puts together at once of such layers."""
    rest: int
    """Bytes of all other weights: between forward and backward they stay together."""
    input_values: int
    """Numbers of one input."""
    cost: Callable[[Way], Cost]
    """What a step costs one way; a way is counted when somebody first asks for it."""

    @property
    def values(self) -> int:
        """The number of weights."""
        return sum(parameter.values for parameter in self.parameters)

    @property
    def learning(self) -> int:
        """The number of weights that learn."""
        return sum(parameter.values for parameter in self.parameters if parameter.learns)


@dataclass(frozen=True)
class Measured:
    """What some optimizer steps on this machine showed."""

    device: str
    batch: int
    steps: int
    step_seconds: float
    """Forward, backward and optimizer of one step, the median."""
    fastest: float
    """Seconds of a step: a quarter of the steps took less."""
    slowest: float
    """Seconds of a step: a quarter of the steps took more."""
    flops: float
    """Operations a second that this comes to."""
    input_seconds: float
    """Reading and augmenting one example."""
    peak_bytes: int | None = None
    """The most memory that torch had reserved; of a GPU only."""

    @property
    def reached(self) -> tuple[float, float, float]:
        """What share of the usual speed fast, usual and slow steps reached."""
        return self.step_seconds / self.fastest, 1.0, self.step_seconds / self.slowest
