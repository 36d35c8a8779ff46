"""Warns of steps whose definition causes trouble when a worker is lost or a result is replaced.

A warning points at the user's line. The checks run when a saga is committed, and again when its
plan is made and all tasks are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from celery_saga.core.plan import PlanStep
from celery_saga.definition.builder import SagaDefinition
from celery_saga.definition.source_lines import Line, warn
from celery_saga.definition.steps import NestedSagaStep
from celery_saga.definition.steps.tree import local_steps, own_steps

#: The subject of a warning, and its text.
Warned = tuple[tuple[Any, ...], str]


def warn_of(definition: SagaDefinition, steps: Sequence[PlanStep | None]) -> None:
    """Warn of each finding that was not reported before.

    Args:
        steps: of the plan, with those in branches and without those of nested sagas, whose commit
            has warned of them; ``None``: not known yet.
    """
    local = local_steps(own_steps(definition))
    lines, spine = [step.line for step in local], {id(step) for step in definition.steps}
    known = [(i, step) for i, step in enumerate(steps) if step is not None]
    ordered = [(i, step) for i, step in known if id(local[i]) in spine]
    checks = (
        (_unknown_effects, known),
        (_lost_inputs, known),
        (_replaced_keys, ordered),
        (_dotted_keys, known),
    )
    for check, looked_at in checks:
        for (index, *about), text in check(looked_at):
            key = (check.__name__, index, *about)
            if key not in definition.warned:
                definition.warned.add(key)
                _warn(definition.name, text, lines[index])


def warn_of_nested(definition: SagaDefinition) -> None:
    """Warn of an option of nested sagas that has no effect: a rollback is that of the whole run."""
    for step in own_steps(definition):
        inner = step.nested if isinstance(step, NestedSagaStep) else None
        given = getattr(inner, "on_compensation_failure", "continue")
        if given == "stop" != definition.on_compensation_failure:
            _warn(
                definition.name,
                f"step {step.name!r} is a saga with on_compensation_failure='stop', which holds "
                f"only where it is started by itself: give it to Saga({definition.name!r}, ...) "
                f"too",
                step.line,
            )


def _warn(saga: str, text: str, line: Line) -> None:
    warn(f"saga {saga!r}: {text}", line)


def _unknown_effects(steps: list[tuple[int, PlanStep]]) -> Iterator[Warned]:
    """Steps with an effect that is unknown when their worker is lost, and has no compensation."""
    for index, step in steps:
        if step.pivot:
            return  # from here on each step is run again
        if step.is_remote and step.compensation is None and not step.read_only:
            yield (
                (index,),
                f"remote step {step.name!r} has no compensation: if no reply comes to its request, "
                f"its effect may remain, and the saga gets stuck. Give it a compensating request "
                f"with .on_failure(), or set read_only=True if it changes nothing",
            )
        if step.compensation is None and not step.action.rerun and not step.read_only:
            yield (
                (index,),
                f"step {step.name!r} has no compensation, and is not run again when its worker is "
                f"lost: its effect may remain then, and the saga gets stuck. Give its task "
                f"acks_late=True (or the step on_lost='rerun') if it can run twice, give it a "
                f"compensation with .on_failure(), or set read_only=True if it changes nothing",
            )


def _lost_inputs(steps: list[tuple[int, PlanStep]]) -> Iterator[Warned]:
    """Compensations that require a value that only their own step returns.

    Such a saga gets stuck when the step's outcome is lost.
    """
    before: set[str | int] = set()
    for index, step in steps:
        before.update(key for item in step.action.inputs if item.required for key in item.path[:1])
        key, compensation = result_key(step), step.compensation
        for item in compensation.inputs if compensation is not None else ():
            if compensation and item.required and key not in before and item.path[:1] == (key,):
                yield (
                    (index, item.param),
                    f"compensation {compensation.task!r} requires {item.param!r}, which only step "
                    f"{step.name!r} itself returns; if that step's outcome is lost, the saga gets "
                    f"stuck: give {item.param!r} a default and find the effect by "
                    f"saga_info().forward_key",
                )
        before.update([key] if key else ())


def _replaced_keys(steps: list[tuple[int, PlanStep]]) -> Iterator[Warned]:
    """Results that replace a value in the context which another step reads.

    A step that reads a key itself replaces it on purpose.
    """
    there: dict[str | int, PlanStep] = {}
    for index, step in steps:
        own = {key for item in step.action.inputs for key in item.path[:1]}
        key = step.action.returns if isinstance(step.action.returns, str) else None
        first = there.get(key or "")
        others = [each for _, each in steps if each is not step and key in _reads(each)]
        if key and first is not None and key not in own and others:
            readers = ", ".join(repr(each.name) for each in others)
            yield (
                (index, key),
                f"the result of step {step.name!r} replaces {key!r} in the context, which step "
                f"{first.name!r} has put or found there and which is read by {readers}: give it "
                f"another key with returns=",
            )
        for name in [*own, *([key] if key else ())]:
            there.setdefault(name, step)


def _dotted_keys(steps: list[tuple[int, PlanStep]]) -> Iterator[Warned]:
    """Inputs from a key with a dot, which is not a path: its parameter's default would apply."""
    written = {result_key(step) for _, step in steps}
    for index, step in steps:
        for call in (step.action, step.compensation):
            for item in call.inputs if call is not None else ():
                key = str(item.path[0]) if len(item.path) == 1 else ""
                if "." in key and key not in written and not item.required:
                    yield (
                        (index, item.param),
                        f"step {step.name!r}: inputs[{item.param!r}] is the context key {key!r}, "
                        f"and the default of the parameter if there is none: a path into a value "
                        f"is a tuple, {tuple(key.split('.'))!r}",
                    )


def _reads(step: PlanStep) -> set[str | int]:
    calls = [step.action, *([step.compensation] if step.compensation else [])]
    return {key for call in calls for item in call.inputs for key in item.path[:1]}


def result_key(step: PlanStep) -> str | None:
    """The context key of a step's result; ``None`` if the result is a mapping or is dropped."""
    call = step.action
    if call.style == "context" or call.returns is False:
        return None
    return call.returns if isinstance(call.returns, str) else step.key
