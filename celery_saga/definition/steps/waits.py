"""Steps that wait: for a signal, or for a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Literal

from celery_saga.definition.operations import owned
from celery_saga.definition.steps.base import SagaStep, StepOwner
from celery_saga.definition.steps.choice import ConditionalSagaStep
from celery_saga.definition.steps.groups import ForEachSagaStep, NestedSagaStep, branch_of
from celery_saga.errors import DefinitionError


class WaitSagaStep(SagaStep):
    """Waits for a signal. Nothing is sent meanwhile, and no worker is occupied.

    Args:
        signal: the signal's name.
        timeout: seconds, or a timedelta, until it ends without the signal; ``None``: never.
        on_timeout: a committed saga, a step, a task or a function, which is run then; without it
            the step fails.
        returns: the context key of the signal's payload, by default the signal's name; ``False``:
            the payload is dropped.
        name: the step's name, by default the signal's.
    """

    def __init__(
        self,
        signal: str,
        timeout: float | timedelta | None = None,
        on_timeout: Any = None,
        *,
        returns: str | Literal[False] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(signal, str) or not signal or "[" in signal or "]" in signal:
            raise DefinitionError(
                f"wait_for: expected the name of a signal, a text without '[', found {signal!r}"
            )
        if on_timeout is not None and timeout is None:
            raise DefinitionError("wait_for: on_timeout= without timeout=: say after how long")
        if returns not in (None, False) and not (isinstance(returns, str) and returns):
            raise DefinitionError(
                f"wait_for: returns: expected a context key or False, found {returns!r}"
            )
        self.signal = signal
        self.timeout = None if timeout is None else seconds_of("wait_for: timeout", timeout)
        self.on_timeout = None if on_timeout is None else branch_of(on_timeout)
        #: The context key of the payload; ``None``: it is dropped.
        self.key = None if returns is False else str(returns or signal)
        self.options = owned({"name": name})

    @property
    def name(self) -> str:
        """The given name, or that of the signal."""
        return str(self.options["name"] or self.signal)

    @property
    def children(self) -> Sequence[SagaStep]:
        """What is run when the timeout has passed."""
        return () if self.on_timeout is None else (self.on_timeout,)

    def part(self, place: int) -> str:
        """The only one is what follows the timeout."""
        return "what is run after its timeout"

    def validate(self) -> None:
        """Raise if what is run when the timeout has passed is not complete."""
        for child in self.children:
            child.validate()

    def __repr__(self) -> str:
        after = "" if self.on_timeout is None else f" | {self.on_timeout!r}"
        return f"wait_for({self.signal!r}{after})"


class SleepSagaStep(SagaStep):
    """Waits for a time. Nothing is sent meanwhile, and no worker is occupied.

    Args:
        seconds: a number, or a timedelta.
        name: the step's name, by default ``sleep``.
    """

    def __init__(self, seconds: float | timedelta, *, name: str | None = None) -> None:
        super().__init__()
        self.seconds = seconds_of("sleep_step", seconds)
        self.options = owned({"name": name})

    @property
    def name(self) -> str:
        """The given name, or ``sleep``."""
        return str(self.options["name"] or "sleep")

    def validate(self) -> None:
        """It is always complete."""

    def __repr__(self) -> str:
        return f"sleep({self.seconds:g} s)"


def seconds_of(what: str, given: Any) -> float:
    """The seconds of an option.

    Raises:
        DefinitionError: they are neither a number above 0 nor a timedelta.
    """
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if type(seconds) not in (int, float) or not 0 < seconds < math.inf:
        raise DefinitionError(
            f"{what}: expected a number of seconds above 0, or a timedelta, found {given!r}"
        )
    return float(seconds)


#: The nested sagas around a wait, by the identities of their steps.
Level = tuple[int, ...]


def shared_signals(saga: StepOwner) -> frozenset[str]:
    """The signals for which several sagas of one run wait, of which all but one are nested.

    In a nested saga such a signal has the name of that in front: ``deposit.approved``.

    Raises:
        DefinitionError: one saga waits twice for a signal in one run: the first wait would take it.
    """
    shared: set[str] = set()
    _signals_of(saga.steps, saga, (), shared)
    return frozenset(shared)


def _signals_of(
    steps: Iterable[SagaStep], saga: StepOwner, level: Level, shared: set[str]
) -> dict[str, set[Level]]:
    found: dict[str, set[Level]] = {}
    for step in steps:
        for signal, levels in _of_step(step, saga, level, shared).items():
            known = found.setdefault(signal, set())
            if known & levels:
                raise DefinitionError(
                    f"saga {saga.name!r}: two of its steps wait for the signal {signal!r}: give "
                    f"each wait a name of its own; two alternatives of a choice may have the same"
                )
            if known:
                shared.add(signal.removesuffix("[]"))
            known |= levels
    return found


def _of_step(
    step: SagaStep, saga: StepOwner, level: Level, shared: set[str]
) -> dict[str, set[Level]]:
    """The signals for which a step may wait in a run; each once."""
    if isinstance(step, NestedSagaStep):
        inner = step.nested
        return _signals_of(inner.steps, inner, (*level, id(step)), shared)
    if isinstance(step, WaitSagaStep | ConditionalSagaStep):  # no run waits in all of these
        found = {step.signal: {level}} if isinstance(step, WaitSagaStep) else {}
        for child in step.children:
            for signal, levels in _of_step(child, saga, level, shared).items():
                found[signal] = found.get(signal, set()) | levels
        return found
    inside = _signals_of(step.children, saga, level, shared)
    if isinstance(step, ForEachSagaStep):
        return {f"{signal}[]": levels for signal, levels in inside.items()}
    return inside
