"""Every mistake that the builder sees is refused with what was expected and what was found."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from celery import chain, chord, group

from celery_saga import LocalSagaStep, Saga, SagaOperation, saga_step
from celery_saga.errors import DefinitionError
from tests.definition.building import new_app

app = new_app("shop")


@app.task(name="texts.charge", shared=False)
def charge(total: float) -> None: ...


@app.task(name="texts.refund", shared=False)
def refund(total: float) -> None: ...


def many(*steps: LocalSagaStep) -> None:
    Saga("checkout", steps=steps).commit()


def with_compensation(**options: Any) -> None:
    many(LocalSagaStep(charge).on_failure(refund, **options))


def note(order_id: int) -> None: ...


step = LocalSagaStep
Row = tuple[Callable[[], Any], list[str]]

ROWS: dict[str, Row] = {
    "a saga's name": (lambda: Saga(7), ["name", "expected a text", "7"]),  # type: ignore[arg-type]
    "a saga without letters": (lambda: Saga("  "), ["name", "expected a text", "'  '"]),
    "steps is a text": (lambda: Saga("s", steps="abc"), ["steps", "expected a list", "'abc'"]),
    "steps is one task": (lambda: Saga("s", steps=charge), ["steps", "expected a list"]),
    "options of a step object": (
        lambda: Saga("s").local_step(step(charge), pivot=True),
        ["step object", "pivot"],
    ),
    "option of a task": (
        lambda: Saga("s").local_step(charge, quue="fast"),
        ["unknown option 'quue'", "a task", "expected one of", "'queue'", "parameters={...}"],
    ),
    "option of a name": (
        lambda: Saga("s").local_step("shop.charge", countdown=3),
        ["unknown option 'countdown'", "'shop.charge'", "expected one of"],
    ),
    "a group": (
        lambda: Saga("s").local_step(group(charge.s(total=1))),
        ["a group as a step", "parallel_step()"],
    ),
    "a chord": (
        lambda: many(step(chord([charge.s(total=1)], refund.s()))),
        ["a chord as a step", "parallel_step()"],
    ),
    "a chain": (
        lambda: Saga("s", steps=[chain(charge.s(total=1), refund.s())]),
        ["a chain as a step", "a step of its own"],
    ),
    "a signature": (
        lambda: Saga("s").local_step(charge.s(total=1)),
        ["a signature as a step", "the task itself", "parameters={...}"],
    ),
    "a signature as a compensation": (
        lambda: Saga("s").local_step(charge).on_failure(refund.si(total=1)),
        ["a signature as a step", "the task itself"],
    ),
    "calls of one task for many values": (
        lambda: Saga("s").local_step(charge.starmap([(1,)])),
        ["a signature as a step"],
    ),
    "a pair": (
        lambda: Saga("s", steps=[(charge, refund)]),  # type: ignore[list-item]
        ["a tuple as a step", "LocalSagaStep(task, compensation)"],
    ),
    "a list": (
        lambda: Saga("s").local_step([charge, refund]),  # type: ignore[arg-type]
        ["a list as a step", "local_step()"],
    ),
    "a saga": (
        lambda: Saga("s").local_step(Saga("inner")),  # type: ignore[arg-type]
        ["a saga as a step", "nested_step()"],
    ),
    "what the decorator is put on": (
        lambda: saga_step(compensation=refund)(charge.s(total=1)),
        ["a signature as a step"],
    ),
    "option of a step without action": (
        lambda: Saga("s").local_step(colour="red"),
        ["unknown option 'colour'", "expected one of", "'pivot'"],
    ),
    "option of a compensation": (
        lambda: Saga("s").local_step(charge).on_failure(refund, pivot=True),
        ["unknown option 'pivot'", "expected one of", "'queue'"],
    ),
    "option of an operation": (
        lambda: Saga("s").local_step(SagaOperation(charge, quue="fast")),
        ["unknown option 'quue'", "expected one of"],
    ),
    "option of the decorator": (
        lambda: saga_step(compensation=refund, quue="fast")(charge),
        ["unknown option 'quue'", "expected one of"],
    ),
    "constants that are no mapping": (
        lambda: Saga("s").local_step().on_execute(charge, [1]),  # type: ignore[arg-type]
        ["parameters", "expected a mapping", "[1]"],
    ),
    "constants without names": (
        lambda: Saga("s").local_step().on_execute(charge, {1: 1}),  # type: ignore[dict-item]
        ["parameters", "expected a mapping", "{1: 1}"],
    ),
    "on_lost": (
        lambda: Saga("s").local_step(charge, on_lost="again"),
        ["on_lost", "expected 'rerun' or 'compensate'", "found 'again'"],
    ),
    "pivot": (
        lambda: Saga("s").local_step(charge, pivot="yes"),
        ["pivot", "expected True or False", "found 'yes'"],
    ),
    "read_only": (
        lambda: Saga("s").local_step(charge, read_only="yes"),  # type: ignore[arg-type]
        ["read_only", "expected True or False", "found 'yes'"],
    ),
    "read_only and a compensation": (
        lambda: many(step(charge, read_only=True).on_failure(refund)),
        ["'checkout'", "step number 1", "compensation", "read_only=True", "remove one of the two"],
    ),
    "read_only and compensated when it is lost": (
        lambda: many(step(charge, read_only=True, on_lost="compensate")),
        ["'checkout'", "read_only=True", "expected no on_lost= or 'rerun'", "found 'compensate'"],
    ),
    "retriable": (
        lambda: Saga("s").local_step(charge, retriable=3, max_attempts=3),
        ["retriable", "expected True or False", "found 3"],
    ),
    "a step's name": (
        lambda: many(step(charge, name=7)),
        ["'checkout'", "name", "expected a text without '/'", "found 7"],
    ),
    "an empty step name": (lambda: many(step(charge, name="")), ["expected a text", "found ''"]),
    "a step name with a slash": (
        lambda: many(step(charge, name="a/b")),
        ["expected a text without '/'", "found 'a/b'"],
    ),
    "duplicate names": (
        lambda: many(step(charge, name="pay"), step(charge, name="pay")),
        ["'checkout'", "two steps", "'pay'"],
    ),
    "two pivots": (
        lambda: many(step(charge, pivot=True), step(charge), step(refund, pivot=True)),
        ["'checkout'", "expected one pivot", "found", "1 and 3"],
    ),
    "a function that takes no context": (
        lambda: many(step(note)),
        ["'checkout'", "number 1: the", "'note'", "'order_id'", "SagaContext", "@app.task"],
    ),
    "a compensation that takes no context": (
        lambda: many(step(charge, note)),
        ["step number 1, its compensation: the", "'note'", "context=True", "@app.task"],
    ),
    "a compensation on the pivot": (
        lambda: many(step(charge, refund, pivot=True)),
        ["'checkout'", "step number 1", "compensation", "on or after the pivot"],
    ),
    "a compensation after the pivot": (
        lambda: many(step(charge, pivot=True), step(charge, refund)),
        ["'checkout'", "step number 2", "compensation", "on or after the pivot"],
    ),
    "compensation of a lost pivot": (
        lambda: many(step(charge, pivot=True, on_lost="compensate")),
        ["'checkout'", "step number 1", "on_lost", "on or after the pivot", "'compensate'"],
    ),
    "retriable without a limit": (
        lambda: many(step(charge, retriable=True)),
        ["'checkout'", "step number 1", "retriable", "max_attempts="],
    ),
    "a retriable pivot without a limit": (
        lambda: many(step(charge, retriable=True, pivot=True)),
        ["'checkout'", "step number 1", "retriable", "max_attempts="],
    ),
    "a limit without retriable": (
        lambda: many(step(charge, max_attempts=3)),
        ["'checkout'", "step number 1", "max_attempts=", "retriable=True"],
    ),
    "compensate_on_failure without a compensation": (
        lambda: many(step(charge, compensate_on_failure=True)),
        ["'checkout'", "step number 1", "compensate_on_failure", "compensation"],
    ),
    **{
        f"max_attempts {bad!r}": (
            functools.partial(
                lambda bad: many(step(charge, retriable=True, max_attempts=bad)), bad
            ),
            ["'checkout'", "step number 1", "max_attempts", "expected 1 or more", f"found {bad!r}"],
        )
        for bad in (0, -1, 2.5, "3", True)
    },
    "max_attempts of a compensation": (
        lambda: with_compensation(max_attempts=0),
        ["'checkout'", "step number 1", "max_attempts", "expected 1 or more", "found 0"],
    ),
}


@pytest.mark.parametrize(("build", "parts"), ROWS.values(), ids=ROWS.keys())
def test_the_text_names_what_was_expected_and_what_was_found(
    build: Callable[[], Any], parts: list[str]
) -> None:
    with pytest.raises(DefinitionError) as caught:
        build()
    text = str(caught.value)
    assert [part for part in parts if part not in text] == [], text
