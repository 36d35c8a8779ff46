"""The walk through every reachable state; :mod:`tests.core.walk` says what may happen in it.

The plain run takes a few seconds, and walks

==========  =======  =====================================================================
profile     steps    how often, in one saga
==========  =======  =====================================================================
crashes     1, 2     a void claim, which may leave a zombie, and a cancel
celery      1        a void claim, which may leave a zombie, and a Celery retry
retries     2        a Celery retry and a cancel
requests    1        a void claim, a cancel, a pause and an operator's verb
operators   2        a pause and an operator's verb
unknown     1        two reports of an unknown task, a cancel and an operator's verb
unclaimed   1        ten losses of messages, a cancel and an operator's verb
deadline    1, 2     a deadline and a pause
results     1, 2     a result and callers, late reports of them, a cancel and an operator's verb
long        3        a void claim
longer      4        none of these: failures, compensations that fail, duplicates, stale reports
==========  =======  =====================================================================

each for all sagas of so many steps: every pattern of compensations, no pivot or one at each place
where it may be, and (where claims may be void) steps that are run again when they are lost and
steps that are not. Compensations have two attempts, so have the steps after a pivot, and a claim
may be lost once for each. Five steps are sampled by random ways with all of this and more.
``SAGA_WALK=full`` raises the bounds, and takes many minutes.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

import pytest

from celery_saga.core.execution import SagaStatus, StepStatus
from tests.core.promises import Found
from tests.core.scenario import plan_of
from tests.core.walk import Violation, Walk
from tests.core.worlds import Bounds

T = TypeVar("T")

FULL = os.environ.get("SAGA_WALK") == "full"


class Profile(NamedTuple):
    """Sagas of some lengths, and what may happen to them."""

    steps: tuple[int, ...]
    bounds: Bounds
    deadline: bool = False
    result: bool = False


NOTHING = Bounds(0, 0, 0, 0)

PROFILES = {
    "crashes": Profile((1, 2), NOTHING._replace(voids=1, zombies=1, cancels=1)),
    "celery": Profile((1,), NOTHING._replace(voids=1, zombies=1, retries=1)),
    "retries": Profile((2,), NOTHING._replace(cancels=1, retries=1)),
    "requests": Profile((1,), NOTHING._replace(voids=1, cancels=1, pauses=1, verbs=1)),
    "operators": Profile((2,), NOTHING._replace(pauses=1, verbs=1)),
    "unknown": Profile((1,), NOTHING._replace(unknown=2, cancels=1, verbs=1)),
    "unclaimed": Profile((1,), NOTHING._replace(losses=10, cancels=1, verbs=1)),
    "deadline": Profile((1, 2), NOTHING._replace(pauses=1), deadline=True),
    "results": Profile((1, 2), NOTHING._replace(cancels=1, verbs=1), result=True),
    "long": Profile((3,), NOTHING._replace(voids=1)),
    "longer": Profile((4,), NOTHING),
}
#: In the full run these take the place of those above, or stand beside them.
FULL_PROFILES = {
    "crashes": Profile((1, 2, 3), NOTHING._replace(voids=2, zombies=1, cancels=1)),
    "celery": Profile((1, 2), NOTHING._replace(voids=1, zombies=1, cancels=1, retries=1)),
    "two zombies": Profile((1, 2), NOTHING._replace(voids=2, zombies=2)),
    "requests": Profile((1, 2), NOTHING._replace(voids=1, cancels=1, pauses=1, verbs=1)),
    "unknown": Profile((2,), NOTHING._replace(voids=1, unknown=2, cancels=1, verbs=1)),
    "unclaimed": Profile((2,), NOTHING._replace(voids=1, losses=10, cancels=1, verbs=1)),
    "deadline": Profile((2, 3), NOTHING._replace(voids=1, pauses=1), deadline=True),
    "long": Profile((3,), NOTHING._replace(voids=1, retries=1, cancels=1)),
    "longer": Profile((4,), NOTHING._replace(voids=1, zombies=1)),
    "longest": Profile((5,), NOTHING._replace(cancels=1)),
}
if FULL:
    PROFILES |= FULL_PROFILES


def shapes(length: int, lost: tuple[str, ...] = ("", "!")) -> Iterator[str]:
    """All sagas of so many steps, without those that cannot be defined."""
    for pivot in (None, *range(length)):
        free = length if pivot is None else pivot
        after = () if pivot is None else ("*", *["%2"] * (length - pivot - 1))
        for compensations in itertools.product(("", "-"), repeat=free):
            for flag in lost:
                names = zip("abcde", (*compensations, *after), strict=False)
                yield " ".join(f"{name}{flags}{flag}" for name, flags in names)


def walked(profile: Profile) -> list[Found]:
    """Walk through all sagas of a profile."""
    found = []
    lost = ("", "!") if profile.bounds.voids else ("",)
    for shape in itertools.chain.from_iterable(shapes(length, lost) for length in profile.steps):
        plan = plan_of(shape, max_redeliveries=1)
        deadline, result = profile.deadline, profile.result
        walk = Walk(plan, profile.bounds, deadline=deadline, result=result)
        found.append(kept(shape, walk.run))
    return found


def kept(shape: str, walk: Callable[[], T]) -> T:
    """What a walk gives back, or the promise that it found broken, without a traceback."""
    try:
        return walk()
    except Violation as violation:
        text = f"saga {shape!r}: {violation}"
    pytest.fail(text, pytrace=False)


@pytest.mark.parametrize("name", PROFILES)
def test_no_state_breaks_a_promise(name: str) -> None:
    profile = PROFILES[name]
    found = walked(profile)
    sagas = sum(2 ** (length + 1) - 1 for length in profile.steps)
    assert len(found) == sagas * (2 if profile.bounds.voids else 1)
    statuses = set[SagaStatus]().union(*(each.statuses for each in found))
    expected = set(SagaStatus)
    if not profile.bounds.pauses:
        expected.remove(SagaStatus.PAUSED)
    assert statuses == expected, "the walk has become too short to say anything"
    assert all(each.enough for each in found), "no report was decided on parts of a saga"


def test_the_walk_meets_every_status_of_a_step() -> None:
    found = walked(Profile((2,), NOTHING._replace(cancels=1, verbs=1)))
    assert set[StepStatus]().union(*(each.step_statuses for each in found)) == set(StepStatus)


def test_attempts_of_the_engine_before_the_pivot() -> None:
    bounds = NOTHING._replace(voids=1, cancels=1)
    for shape in ("a%2", "a%2!", "a%2 b*"):
        assert Walk(plan_of(shape, max_redeliveries=1), bounds).run().worlds > 100


def test_steps_that_leave_nothing_behind() -> None:
    bounds = NOTHING._replace(voids=1, zombies=1, cancels=1)
    for shape in ("a?", "a b?", "a? b", "a? b!-"):
        found = kept(shape, Walk(plan_of(shape, max_redeliveries=1), bounds).run)
        assert StepStatus.SUCCEEDED in found.step_statuses


def test_random_ways_through_sagas_of_five_steps() -> None:
    generator = random.Random(20_001)
    every = list(shapes(5))
    bounds = Bounds(
        voids=4, zombies=2, retries=3, cancels=1, pauses=2, verbs=2, unknown=2, losses=9
    )
    lengths = []
    for _ in range(20_000 if FULL else 200):
        shape = generator.choice(every)
        deadline, result = generator.random() < 0.2, generator.random() < 0.5
        plan = plan_of(shape, max_redeliveries=2)
        walk = Walk(plan, bounds, deadline=deadline, result=result)
        lengths.append(kept(shape, partial(walk.wander, generator)))
    assert sum(lengths) / len(lengths) > 10
