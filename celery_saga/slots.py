"""The name of one dispatch of one step, and the task id that it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Direction(str, Enum):
    """Which of a step's two tasks is meant. The value is the letter used in message ids."""

    FORWARD = "f"
    BACKWARD = "c"

    __str__ = str.__str__


@dataclass(frozen=True)
class Slot:
    """Names one dispatch of one step; :meth:`task_id` makes it a Celery task id.

    A step that is sent again because its claim was void gets a new epoch, and the old messages are
    stale by that. A message that was merely lost is sent again under the same slot.
    """

    step: int
    direction: Direction
    epoch: int

    def __str__(self) -> str:
        return f"{self.direction}{self.step}~{self.epoch}"

    def task_id(self, saga_id: str) -> str:
        """``<saga>~<f|c><step index>~<epoch>``."""
        return f"{saga_id}~{self}"

    @classmethod
    def parse(cls, task_id: str) -> tuple[str, Slot] | None:
        """Saga id and slot from a task id; ``None`` for the id of an ordinary task."""
        match = _TASK_ID.fullmatch(task_id or "")
        if match is None:
            return None
        saga_id, letter, step, epoch = match.groups()
        return saga_id, cls(int(step), Direction(letter), int(epoch))


_TASK_ID = re.compile(r"([A-Za-z0-9._-]{1,64})~([fc])(\d+)~(\d+)")
