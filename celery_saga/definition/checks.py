"""Refuses steps that cannot be combined, when a saga is committed and when its plan is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from celery_saga.definition import functions
from celery_saga.definition.binding import check_function
from celery_saga.definition.options import check_message_options
from celery_saga.definition.steps import (
    ConditionalSagaStep,
    ForEachSagaStep,
    LocalSagaStep,
    NestedSagaStep,
    ParallelSagaStep,
    SagaStep,
    SleepSagaStep,
    WaitSagaStep,
)
from celery_saga.definition.steps.tree import NOT_IN_NAMES, Located
from celery_saga.errors import DefinitionError


def check_steps(saga: str, found: Sequence[Located]) -> None:
    """Refuse steps that cannot be combined.

    Args:
        saga: the name of the saga.
        found: its steps and all steps inside of them, in the order of the definition.

    Raises:
        DefinitionError: two pivots, a compensation on or after the pivot, two equal names, ...
    """
    _check_names(saga, [each.step for each in found if each.own])
    _check_pivot(saga, found)
    for each in found:
        _check_kind(f"saga {saga!r}: {each.where}", each.step)
    _check_retries(saga, found)


def _check_names(saga: str, steps: list[SagaStep]) -> None:
    seen: set[str] = set()
    nested: list[NestedSagaStep] = []
    for step in steps:
        name = step.options.get("name")
        if name is None:
            if isinstance(step, NestedSagaStep):
                nested.append(step)
            continue
        if not isinstance(name, str) or not name or not NOT_IN_NAMES.isdisjoint(name):
            raise DefinitionError(
                f"saga {saga!r}: a step's name: expected a text without '/', '[' and ']', found "
                f"{name!r}"
            )
        if name in seen:
            raise DefinitionError(
                f"saga {saga!r}: two steps are named {name!r}: give one of them another name="
            )
        seen.add(name)
    for place, step in enumerate(nested):
        for other in nested[:place]:
            same = step.nested.own_name is not None and step.name == other.name
            if step.nested is other.nested or same:
                raise DefinitionError(
                    f"saga {saga!r}: two of its steps are a saga {step.name!r}: give one of them a "
                    f"name, NestedSagaStep(..., name=...)"
                )


def _check_pivot(saga: str, found: Sequence[Located]) -> None:
    pivots = [index for index, each in enumerate(found) if each.step.options.get("pivot")]
    if len(pivots) > 1:
        numbers = " and ".join(found[index].where.removeprefix("step number ") for index in pivots)
        raise DefinitionError(
            f"saga {saga!r}: expected one pivot at most, found steps number {numbers}"
        )
    for index in range(pivots[0], len(found)) if pivots else ():
        step = found[index].step
        where = f"saga {saga!r}: {found[index].where}"
        if index == pivots[0] and not found[index].spine:
            raise DefinitionError(
                f"{where} is a pivot in a branch, a loop or a choice: expected a pivot among the "
                f"steps of the saga itself, or of one that it has as a nested_step()"
            )
        if isinstance(step, LocalSagaStep) and step.compensation is not None:
            raise DefinitionError(
                f"{where} has a compensation and is on or after the pivot, from which there is "
                f"no rollback: remove one of the two"
            )
        if step.options.get("on_lost") == "compensate":
            raise DefinitionError(
                f"{where} is on or after the pivot, where a step is always run again: expected "
                f"no on_lost= or 'rerun', found 'compensate'"
            )


def _check_kind(where: str, step: SagaStep) -> None:
    _check_operations(where, step)
    if isinstance(step, LocalSagaStep):
        _check_options(where, step)
    elif isinstance(step, ParallelSagaStep):
        _check_branches(where, step)
    elif isinstance(step, ForEachSagaStep):
        _check_loop(where, step)


def _check_operations(where: str, step: SagaStep) -> None:
    model = step.saga.model
    cls = model.cls if model else None
    for role, operation in step.operations():
        words = role if role.startswith("on_") else role.replace("_", " number ")
        named = "" if role == "action" else f", its {words}"
        check_message_options(f"{where}{named}", operation.options)
        if functions.is_plain(operation.callback):
            context = operation.options.get("context")
            check_function(f"{where}{named}", operation.callback, context, cls)
        limit = operation.options.get("max_attempts")
        if limit is not None and (type(limit) is not int or limit < 1):
            raise DefinitionError(f"{where}: max_attempts: expected 1 or more, found {limit!r}")


def _check_options(where: str, step: LocalSagaStep) -> None:
    if step.options.get("read_only"):
        _check_read_only(where, step)
    if step.options.get("compensate_on_failure") and step.compensation is None:
        raise DefinitionError(
            f"{where} has compensate_on_failure= and no compensation: give it one with "
            f".on_failure()"
        )


def _check_read_only(where: str, step: LocalSagaStep) -> None:
    if step.compensation is not None:
        raise DefinitionError(
            f"{where} has a compensation and read_only=True, which says that there is nothing to "
            f"compensate: remove one of the two"
        )
    if step.options.get("on_lost") == "compensate":
        raise DefinitionError(
            f"{where} has read_only=True, and such a step is always run again: expected no "
            f"on_lost= or 'rerun', found 'compensate'"
        )


def _check_branches(where: str, step: ParallelSagaStep) -> None:
    """Refuse two branches that store results under one key: they would fail to be joined."""
    writers: dict[str, int] = {}
    for number, branch in enumerate(step.children, start=1):
        for key in dict.fromkeys(_stored(branch)):
            other = writers.setdefault(key, number)
            if other != number:
                raise DefinitionError(
                    f"{where}: branches number {other} and {number} both store a result under "
                    f"{key!r}, and their results cannot be joined: give one another returns="
                )


def _stored(step: SagaStep) -> Iterator[str]:
    """The context keys that a step is known to write, by its definition."""
    if isinstance(step, LocalSagaStep):
        key = step.action.options.get("returns") if step.action else None
        yield from (key,) if isinstance(key, str) else ()
    elif isinstance(step, NestedSagaStep):
        if step.returns is not None:
            yield from step.returns
        else:
            yield from (key for inner in step.nested.steps for key in _stored(inner))
    elif isinstance(step, ForEachSagaStep) and step.returns is not None:
        yield step.returns
    else:
        yield from (step.key,) if isinstance(step, WaitSagaStep) and step.key else ()
        yield from (key for inner in step.children for key in _stored(inner))


def _check_loop(where: str, step: ForEachSagaStep) -> None:
    """Refuse to collect a key that the body, or a way through it, is known not to write."""
    if step.returns is None:
        return
    for keys in _ways_to_write(step.body):
        if keys is not None and step.returns not in keys:
            found = f"has returns={keys[0]!r}" if len(keys) == 1 else f"writes {sorted(keys)}"
            raise DefinitionError(
                f"{where} collects {step.returns!r} and its body {found if keys else 'has none'}: "
                f"expected the same key, or no returns= of the body"
            )


def _ways_to_write(step: SagaStep) -> Iterator[list[str | bool] | None]:
    """For each way through a body the keys that it writes; ``None``: they are not known."""
    if isinstance(step, LocalSagaStep):
        key = step.action.options.get("returns") if step.action else None
        yield None if key is None else [key]
    elif isinstance(step, NestedSagaStep) and step.returns is not None:
        yield list(step.returns)
    elif isinstance(step, NestedSagaStep):
        inside = step.nested.steps
        if len(inside) == 1:
            yield from _ways_to_write(inside[0])
            return
        ways = [way for each in inside for way in _ways_to_write(each)]
        plain = all(isinstance(each, LocalSagaStep) for each in inside)
        yield [way[0] for way in ways if way] if plain and None not in ways else None
    elif isinstance(step, ConditionalSagaStep | WaitSagaStep):
        for child in step.children:
            yield from _ways_to_write(child)
    else:
        yield [] if isinstance(step, SleepSagaStep) else None


def _check_retries(saga: str, found: Sequence[Located]) -> None:
    for each in found:
        step = each.step
        if isinstance(step, LocalSagaStep):
            _check_retriable(f"saga {saga!r}: {each.where}", step)
        if step.options.get("pivot"):
            return


def _check_retriable(where: str, step: LocalSagaStep) -> None:
    given = step.action.options if step.action else {}
    retriable = step.options.get("retriable")
    if retriable and given.get("max_attempts") is None:
        raise DefinitionError(
            f"{where} is retriable and is not after the pivot: say how often with max_attempts="
        )
    for option in ("max_attempts", "retry_backoff", "retry_backoff_max"):
        if given.get(option) is not None and not retriable:
            raise DefinitionError(f"{where} has {option}= without retriable=True")
