"""The barrier's promise as a small state machine: what each delivery of a step must do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from celery_saga import BlockedByCompensation
from tests.barrier.places import Place
from tests.helpers import delivery


class Rollback(Exception):
    """The transaction ends without a commit."""


@dataclass(frozen=True)
class Delivery:
    """One body that runs, and how its transaction ends."""

    direction: str
    of: int = 0  #: the round of the step
    round: int = 0  #: the compensation's own
    commits: bool = True

    def __str__(self) -> str:
        turn = f"{self.of}.{self.round}" if self.direction == "c" else str(self.of)
        return f"{self.direction}{turn}{'' if self.commits else ' rolled back'}"


@dataclass
class Model:
    """States of a step's rounds: nothing (absent), ``done``, ``compensated`` or ``blocked``."""

    rounds: dict[int, str] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)
    amounts: list[int] = field(default_factory=list)

    def expect(self, each: Delivery, result: Any) -> tuple[str, Any]:
        """What the barrier gives to the body, and what the body gives to the saga."""
        state = self.rounds.get(each.of)
        if each.direction == "f":
            if state == "done":
                return "skipped", self.results[each.of]
            if state is not None:
                return "blocked", None
            self._effect(each, "done", each.of + 1, result)
            return "first", result
        if state is None:
            self._effect(each, "blocked")
            return "skipped", None
        if state == "done":
            self._effect(each, "compensated", -each.of - 1)
            return "first", self.results[each.of]
        return "skipped", None

    def _effect(self, each: Delivery, state: str, amount: int = 0, result: Any = None) -> None:
        if not each.commits:
            return
        self.rounds[each.of] = state
        if amount:
            self.amounts.append(amount)
        if amount > 0:
            self.results[each.of] = result


def run(place: Place, saga_id: str, each: Delivery, result: Any) -> tuple[str, Any]:
    """The same on a real database."""
    seen: tuple[str, Any] = ("", None)
    forward = each.direction == "f"
    turn = each.of if forward else each.round
    try:
        with delivery(saga_id, each.direction, turn, each.of), place.transaction() as session:
            with place.barrier(session) as first:
                seen = ("first", first.forward_result) if first else ("skipped", first.result)
                if first:
                    place.effect(session, saga_id, (each.of + 1) * (1 if forward else -1))
                if first and forward:
                    first.result = result
                    seen = ("first", result)
            if not each.commits:
                raise Rollback
    except BlockedByCompensation:
        return "blocked", None
    except Rollback:
        pass
    return seen
