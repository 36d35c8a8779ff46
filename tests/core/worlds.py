"""What a walk goes through: executions, the bodies that still run, and the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from celery_saga.core.decide.operators import held_up_by
from celery_saga.core.execution import TERMINAL, Direction, SagaExecution, SagaStatus, StepRef
from celery_saga.core.plan import Path

FORWARD, COMPENSATION = Direction.FORWARD, Direction.COMPENSATION


class Bounds(NamedTuple):
    """How often each thing may happen in one saga; also the counters of a world, which count down.

    Bounded by the plan: void claims of one step, attempts of a compensation and after the pivot.

    Args:
        failures: tasks that raise; the default is: no bound.
        signals: that are sent before their wait has begun, or after its end.
        looks: whether looks find messages elsewhere than lost; it has no end.
    """

    voids: int = 2
    zombies: int = 1
    retries: int = 1
    cancels: int = 1
    pauses: int = 0
    verbs: int = 0
    unknown: int = 0
    losses: int = 0
    failures: int = 1_000
    signals: int = 0
    looks: int = 1

    def less(self, **fewer: int) -> Bounds:
        """These bounds after something happened."""
        return self._replace(**{name: getattr(self, name) - by for name, by in fewer.items()})


class Body(NamedTuple):
    """A task function that runs, or has ended and is not heard of yet."""

    ref: StepRef
    retries: int
    compensation_round: int
    #: ``running``; ``retried``: Celery has its retry, the saga does not know;
    #: ``zombie``: the claim is void; ``loose``: so it is, and the effect has happened since.
    state: str

    @property
    def token(self) -> str:
        """Of its claim."""
        return f"{self.ref}/{self.retries}"


class Truth(NamedTuple):
    """What is the case with one step, apart from what the state machine has in its records."""

    #: The effect is there.
    standing: bool = False
    #: The highest compensation round that was carried out; another one of that round does nothing.
    compensated: int = -1
    #: The highest compensation round that was sent.
    sent: int = -1
    #: An effect was reported or may exist: a compensation of this round or a later one settles it.
    debt: int | None = None
    #: The debt arose in the rollback.
    late: bool = False


class World(NamedTuple):
    """A state of the walk."""

    execution: SagaExecution
    #: By the paths of the steps and conditions, those of all alternatives and items.
    truth: Mapping[Path, Truth]
    left: Bounds
    bodies: tuple[Body, ...] = ()
    #: StepRef, Celery retries and whether it was a failure, of effect_tokens effects.
    heard: frozenset[tuple[StepRef, int, bool]] = frozenset()
    #: The ref for which Celery has a message with one retry.
    retried: StepRef | None = None
    #: An operator has said how it ended.
    by_hand: bool = False
    #: With branches: paths of the steps that have ended, in that order.
    ended: tuple[Path, ...] = ()


def without(world: World, body: Body) -> World:
    return world._replace(bodies=tuple(each for each in world.bodies if each is not body))


def with_truth(world: World, path: Path, truth: Truth) -> World:
    return world._replace(truth={**world.truth, path: truth})


def took_effect(world: World, body: Body) -> World:
    """The body does what it is for; a compensation whose round was carried out does nothing."""
    path = body.ref.path
    truth = world.truth[path]
    if body.ref.direction is FORWARD:
        return with_truth(world, path, truth._replace(standing=True))
    if body.compensation_round <= truth.compensated:
        return world
    return with_truth(
        world, path, truth._replace(standing=False, compensated=body.compensation_round)
    )


def forgiven(world: World, status: SagaStatus | None = None) -> World:
    """An operator answers for what holds the saga up, or for all of it."""
    resolved, obstacle = status is not None, held_up_by(world.execution)
    steps = world.execution.steps
    truth = {
        path: each._replace(debt=None, standing=False)
        if resolved or steps[path] is obstacle
        else each
        for path, each in world.truth.items()
    }
    return world._replace(truth=truth, by_hand=resolved)


#: Fields of which only the presence matters, and fields that do not matter.
_PRESENCE = frozenset(
    {
        "error",
        "compensation_error",
        "not_before",
        "task_unknown_since",
        "rollback_reason",
        "deadline",
        "due_at",
        "callbacks",
    }
    | {"resolved_at"}
)
_IGNORED = frozenset(
    {
        "expected_at",
        "republished",
        "started_at",
        "ended_at",
        "claim",
        "name",
        "epoch",
        "effect_tokens",
        "kept",
        "log",
    }
    | {"saga_id", "plan", "values", "revision", "history", "created_at", "updated_at", "steps"}
    | {"active", "stuck_count", "last_requests"}
)

_GETTERS: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {}


def key_of(world: World) -> object:
    """What makes a world differ from others.

    Epochs are only ever compared, so they are numbered anew: worlds in which a step was sent more
    often differ no further. What cannot be used any more is not left any more.
    """
    execution = world.execution
    over = execution.status in TERMINAL and not world.bodies
    epochs = _renumbered(world)
    return (
        _key_of_execution(execution, epochs),
        tuple(world.truth.values()),
        _usable(world.left, execution.direction is COMPENSATION, over),
        tuple(sorted((*_ref_key(body.ref, epochs), *body[1:]) for body in world.bodies)),
        frozenset((*_ref_key(ref, epochs), *rest) for ref, *rest in world.heard),
        world.retried if world.retried in execution.active else None,
        world.by_hand,
        world.ended,
    )


@cache
def _usable(left: Bounds, rolling_back: bool, over: bool) -> Bounds:
    if over:
        return Bounds(*[0] * len(left))
    return left._replace(cancels=0, zombies=0) if rolling_back else left


def _renumbered(world: World) -> dict[Path, dict[int, int]]:
    """For each node that was touched, the epochs that are in use, to their ranks."""
    epochs = {path: {0, step.epoch} for path, step in world.execution.steps.items()}
    known = [ref for ref, *_ in (*world.bodies, *world.heard)]
    for ref in (*known, *world.execution.active):
        epochs[ref.path].add(ref.epoch)
    for path, step in world.execution.steps.items():
        epochs[path].update(_parts_of(token)[0] for token in step.effect_tokens)
    return {
        path: {epoch: rank for rank, epoch in enumerate(sorted(used))}
        for path, used in epochs.items()
    }


def _ref_key(ref: StepRef, epochs: dict[Path, dict[int, int]]) -> tuple[Path, str, int]:
    return ref.path, ref.direction.value, epochs[ref.path][ref.epoch]


def _key_of_execution(execution: SagaExecution, epochs: dict[Path, dict[int, int]]) -> object:
    """The execution without its times and texts."""
    return (
        key_of_record(execution),
        frozenset(_ref_key(ref, epochs) for ref in execution.active),
        tuple(
            (
                path,
                key_of_record(step),
                frozenset((step.kept or {}).items()),
                epochs[path][step.epoch],
                step.claim is not None,
                frozenset(_token_key(token, epochs[path]) for token in step.effect_tokens),
            )
            for path, step in sorted(execution.steps.items(), key=_path_of)
        ),
    )


_path_of = itemgetter(0)


def _token_key(token: str, epochs: dict[int, int]) -> tuple[int, str]:
    epoch, retries = _parts_of(token)
    return epochs[epoch], retries


def _parts_of(token: str) -> tuple[int, str]:
    epoch, retries = token.partition("~")[2].split("/")
    return int(epoch), retries


def key_of_record(record: Any) -> tuple[Any, ...]:
    """All fields of a record except those named above, whatever fields it has."""
    kind = type(record)
    if kind not in _GETTERS:
        names = [spec.name for spec in fields(kind) if spec.name not in _IGNORED | _PRESENCE]
        present = [spec.name for spec in fields(kind) if spec.name in _PRESENCE]
        _GETTERS[kind] = attrgetter(*names), attrgetter(*present)
    exact, presence = _GETTERS[kind]
    return exact(record), tuple([value is None for value in presence(record)])
