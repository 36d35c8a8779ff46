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


def check_signals(saga: StepOwner) -> None:
    """Refuse two waits for one signal in one run: the first of them would take it.

    Raises:
        DefinitionError: the text names the signal.
    """
    _signals_of(saga.steps, saga.name)


def _signals_of(steps: Iterable[SagaStep], saga: str) -> set[str]:
    found: set[str] = set()
    for step in steps:
        own = _of_step(step, saga)
        for signal in sorted(found & own):
            raise DefinitionError(
                f"saga {saga!r}: two of its steps wait for the signal {signal!r}: give each wait a "
                f"name of its own; two alternatives of a choice may have the same"
            )
        found |= own
    return found


def _of_step(step: SagaStep, saga: str) -> set[str]:
    """The signals for which a step may wait in a run; each once."""
    if isinstance(step, NestedSagaStep):
        return _signals_of(step.nested.steps, saga)
    if isinstance(step, WaitSagaStep | ConditionalSagaStep):  # no run waits in all of these
        each = [_of_step(child, saga) for child in step.children]
        own = {step.signal} if isinstance(step, WaitSagaStep) else set()
        return own.union(*each)
    found = _signals_of(step.children, saga)
    return {f"{signal}[]" for signal in found} if isinstance(step, ForEachSagaStep) else found
