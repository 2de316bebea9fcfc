"""What a Classifier's status says: the one source of its schema and of what the operator writes."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from vitruvian.cluster.objects import Object

Truth = Literal["True", "False", "Unknown"]
Kind = Literal["Ready", "Reconciling", "Stalled", "Trained", "Gated", "Published", "Serving"]
Phase = Literal["Invalid", "Pending", "Training", "GateMissed", "Failed", "Cancelled", "Deploying", "Serving"]
RunState = Literal["Running", "Succeeded", "GateMissed", "Failed", "Cancelled"]
LONGEST_MESSAGE: Final = 1000


class _Part(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True, use_attribute_docstrings=True
    )


class Condition(_Part):
    """One thing that is so, isn't so, or isn't known yet."""

    type: Kind
    """What it is about."""
    status: Truth
    """Whether it is so."""
    reason: str
    """Why, in one word for programs."""
    message: str = ""
    """Why, in a line for people."""
    observed_generation: int
    """The generation of the Classifier that it is about."""
    last_transition_time: str
    """When its status changed last."""


class ChampionStatus(_Part):
    """The version that the artifacts name as their best."""

    version: str
    """Which one."""
    accuracy: float | None = None
    """Its accuracy on the test part."""


class RunStatus(_Part):
    """The latest run that was begun for this Classifier."""

    name: str
    """The RayJob."""
    digest: str
    """Of what makes a bundle: a run for it is begun once."""
    state: RunState
    """How it goes, or went."""
    message: str = ""
    """What it waits for, or why it failed."""

    @property
    def over(self) -> bool:
        return self.state != "Running"


class Status(_Part):
    """How far the operator is with what is declared."""

    phase: Phase = "Pending"
    """All of it in one word."""
    observed_generation: int = 0
    """The generation of the Classifier that this is about."""
    conditions: tuple[Condition, ...] = ()
    """What is so, and what isn't."""
    champion: ChampionStatus | None = None
    """The version that the artifacts name as their best."""
    url: str | None = None
    """Where it is served."""
    run: RunStatus | None = None
    """The latest run that was begun for this Classifier."""

    def condition(self, kind: Kind) -> Condition | None:
        """Return a condition; None where nothing is said about it yet."""
        return next((each for each in self.conditions if each.type == kind), None)

    def written(self) -> Object:
        """Return it as the cluster keeps it."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def read(resource: Object) -> Status:
    """Return the status that a Classifier has; what isn't one counts as none."""
    try:
        return Status.model_validate(resource.get("status") or {})
    except ValidationError:
        return Status()
