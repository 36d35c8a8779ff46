"""All steps of a definition, those inside of others included."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence, Set
from typing import Any, NamedTuple

from celery_saga.definition import functions
from celery_saga.definition.steps.base import LocalSagaStep, SagaStep, StepOwner
from celery_saga.definition.steps.choice import ConditionalSagaStep
from celery_saga.definition.steps.groups import NestedSagaStep
from celery_saga.errors import DefinitionError, SagaNotCommittedException

#: A name with one of these could make the idempotency keys of two steps equal.
NOT_IN_NAMES = frozenset("/[]")


class Located(NamedTuple):
    """A step with its place in a definition.

    Args:
        where: the place in words.
        key: first part of the names of lambdas used in it; ``None``: there are none.
        spine: whether every run of the saga comes to it, once.
        own: whether the saga itself has it; otherwise one that is nested in it.
    """

    step: SagaStep
    where: str
    key: str | None
    spine: bool = True
    own: bool = True

    def callable_name(self, function: Any, role: str) -> str | None:
        """The wire name of a function that the step uses as ``role``; ``None``: it has none."""
        return functions.wire_name(function, None if self.key is None else f"{self.key}.{role}")


def located(saga: StepOwner) -> Iterator[Located]:
    """All steps of a saga and of the committed ones nested in it, in the definition's order."""
    return _steps_of(saga, None, "", True, True)


def _steps_of(
    saga: StepOwner, key: str | None, outer: str, spine: bool, own: bool
) -> Iterator[Located]:
    key = saga.own_name or key
    where = "" if own else f" of saga {saga.name!r}"
    for index, step in enumerate(saga.steps):
        found = Located(
            step, f"{outer}step number {index + 1}{where}", _joined(key, step, index), spine, own
        )
        yield from _with_inner(found)


def _with_inner(found: Located) -> Iterator[Located]:
    yield found
    step = found.step
    if isinstance(step, NestedSagaStep) and step.nested.committed:
        yield from _steps_of(step.nested, found.key, f"{found.where}, ", found.spine, False)
    for index, child in enumerate(step.children):
        where = f"{found.where}, {step.part(index)}"
        key = _joined(found.key, child, index)
        yield from _with_inner(Located(child, where, key, False, found.own))


def _joined(key: str | None, step: SagaStep, index: int) -> str | None:
    return None if key is None else f"{key}.{step.options.get('name') or index}"


def own_steps(saga: StepOwner) -> list[SagaStep]:
    """The steps of a saga and those in its branches, loops and choices; not those of others."""
    return [inner for step in saga.steps for inner in _with_children(step)]


def _with_children(step: SagaStep) -> Iterator[SagaStep]:
    yield step
    for child in step.children:
        yield from _with_children(child)


def check_nesting(saga: StepOwner) -> None:
    """Refuse nested sagas that are not committed, or that contain themselves.

    Raises:
        DefinitionError: the text names the sagas.
    """
    _check_nesting(saga, ())


def _check_nesting(saga: StepOwner, outer: tuple[StepOwner, ...]) -> None:
    trail = (*outer, saga)
    for step in own_steps(saga):
        if not isinstance(step, NestedSagaStep):
            continue
        inner = step.nested
        if any(inner is each for each in trail):
            names = " > ".join(repr(each.name) for each in (*trail, inner))
            raise DefinitionError(f"saga {inner.name!r} contains itself: {names}; remove one step")
        if not inner.committed:
            _check_nesting(inner, trail)
            raise SagaNotCommittedException(
                f"saga {saga.name!r}: its step {step.name!r} is a saga that is not committed: call "
                f"{inner.name}.commit() before"
            )


def names_of(steps: Sequence[SagaStep], labels: Sequence[str]) -> list[str]:
    """Return one name per step; a repeated task gets a number from its second use on."""
    known = _labels(steps, labels)
    given = {label for label, own in known if own}
    names: list[str] = []
    for label in known:
        names.append(_free(label, names, given))
    return names


def result_keys(
    saga: StepOwner, steps: Sequence[SagaStep], labels: Sequence[str]
) -> dict[int, str]:
    """Return for each step of a saga, by its identity, the key of a result that it does not name.

    It is the name of the step, except in a choice: only one of its alternatives runs, so they do
    not count each other, and a task that is used in several of them has the same key in all.

    Args:
        steps: its own steps and those inside of them, in order, as completed.
        labels: of these.
    """
    known = dict(zip(map(id, own_steps(saga)), _labels(steps, labels), strict=True))
    given = {label for label, own in known.values() if own}
    keys: dict[int, str] = {}

    def add(inside: Sequence[SagaStep], used: frozenset[str]) -> frozenset[str]:
        for step in inside:
            keys[id(step)] = _free(known[id(step)], used, given)
            used = used | {keys[id(step)]}
            if isinstance(step, ConditionalSagaStep):
                used = used.union(*(add([each], used) for each in step.children))
            else:
                used = add(step.children, used)
        return used

    add(saga.steps, frozenset())
    return keys


def _labels(steps: Sequence[SagaStep], labels: Sequence[str]) -> list[tuple[str, bool]]:
    """The names that steps would have if each were the only one; whether it was given to a step."""
    found = []
    for number, (step, label) in enumerate(zip(steps, labels, strict=True), start=1):
        # A lambda has no useful name, and the name is part of idempotency keys.
        label = f"step_{number}" if label == "<lambda>" else label
        plain = "".join("_" if each in NOT_IN_NAMES else each for each in label)
        found.append((plain, bool(step.options.get("name"))))
    return found


def _free(label: tuple[str, bool], used: Collection[str], given: Set[str]) -> str:
    """A label with the first number with which it is not used yet; given names have none."""
    base, own = label
    name, count = base, 1
    while name in used or (name in given and not own):
        count += 1
        name = f"{base}_{count}"
    return name


def local_steps(steps: Sequence[SagaStep]) -> list[LocalSagaStep]:
    """Those of them that have an action and a compensation of this project."""
    return [step for step in steps if isinstance(step, LocalSagaStep)]
