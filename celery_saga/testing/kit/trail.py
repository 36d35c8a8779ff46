"""What has run, in the order in which it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_saga.testing.kit.delivery import RETURNED


@dataclass(frozen=True)
class Ran:
    """One attempt at a step, or at its compensation.

    Args:
        step: the step's name; in loops with the number of the item: ``ship[7]``.
        direction: ``"f"`` for the action, ``"c"`` for the compensation.
        at: when, in seconds since the saga was started.
        outcome: ``"returned"``, ``"raised"``, ``"retried"`` (Celery's own retry follows),
            ``"lost its worker"``, ``"hit its time limit"``, ``"requeued"``.
        error: type and text of its exception; empty: there was none.
        inputs: the arguments by the names of the task's parameters.
    """

    step: str
    direction: str
    at: float
    outcome: str
    error: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def returned(self) -> bool:
        """Whether its body returned."""
        return self.outcome == RETURNED

    @property
    def compensation(self) -> bool:
        """Whether it was the step's compensation."""
        return self.direction == "c"

    def __str__(self) -> str:
        what = f"{self.step} (compensation)" if self.compensation else self.step
        error = f" {self.error}" if self.error else ""
        return f"{self.at:>9.1f} s  {what:<32} {self.outcome}{error}"
