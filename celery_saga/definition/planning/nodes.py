"""Makes the nodes of a plan from the steps of a definition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from celery import Celery

from celery_saga.core.failures import class_name
from celery_saga.core.plan import (
    Call,
    Case,
    Choice,
    ForEach,
    NestedSaga,
    Node,
    Parallel,
    PlanStep,
    RemoteStep,
    Sleep,
    Wait,
)
from celery_saga.definition.planning.calls import Calls
from celery_saga.definition.planning.seen import check_seen
from celery_saga.definition.steps import (
    ConditionalSagaStep,
    ForEachSagaStep,
    LocalSagaStep,
    NestedSagaStep,
    ParallelSagaStep,
    RemoteSagaStep,
    SagaStep,
    SleepSagaStep,
    StepOwner,
    WaitSagaStep,
)
from celery_saga.definition.steps.tree import Located, names_of, own_steps, result_keys
from celery_saga.definition.steps.waits import shared_signals
from celery_saga.definition.tasks.routes import filled
from celery_saga.errors import DefinitionError
from celery_saga.settings import Settings


@dataclass(frozen=True)
class _Level:
    """The steps of one saga: their names and result keys in it, and what is before the names."""

    prefix: str
    names: Mapping[int, str]
    keys: Mapping[int, str]


class Nodes:
    """Makes the nodes of one plan, in the order of the definition.

    Args:
        app: the app that runs the saga.
        found: all steps, with their places.
        completed: by their identities, the steps with what is declared for their tasks.
    """

    def __init__(
        self, app: Celery, found: Iterable[Located], completed: Mapping[int, LocalSagaStep]
    ) -> None:
        self._app, self._completed = app, completed
        self._found = {id(each.step): each for each in found}
        self._past_pivot = False
        self._shared_signals: frozenset[str] = frozenset()
        #: The steps of the saga itself, without those of sagas nested in it.
        self.own: list[PlanStep] = []

    def of(self, saga: StepOwner, prefix: str = "") -> tuple[Node, ...]:
        """Return the nodes of a saga's steps; their names begin with ``prefix``."""
        if not prefix:
            self._shared_signals = shared_signals(saga)
        steps = own_steps(saga)
        known = [self._completed.get(id(step), step) for step in steps]
        labels = [step.name for step in known]
        names = dict(zip(map(id, steps), names_of(known, labels), strict=True))
        level = _Level(prefix, names, result_keys(saga, known, labels))
        return tuple(self._node(step, level) for step in saga.steps)

    def _node(self, step: SagaStep, level: _Level) -> Node:
        name = level.prefix + level.names[id(step)]
        if isinstance(step, LocalSagaStep):
            return self._step(step, level, name)
        if isinstance(step, NestedSagaStep):
            return self._nested(step, name)
        together = step.options.get("compensate") == "parallel"
        if isinstance(step, ParallelSagaStep):
            branches = tuple(self._node(branch, level) for branch in step.children)
            return Parallel(name, branches, together)
        if isinstance(step, ForEachSagaStep):
            body = self._node(step.body, level)
            body = body if step.returns is None else _collected(body, step.returns)
            way = (step.parallel, step.returns, together)
            return ForEach(name, step.over, step.item, body, *way)
        if isinstance(step, SleepSagaStep):
            return Sleep(name, step.seconds)
        if isinstance(step, WaitSagaStep):
            after = None if step.on_timeout is None else self._node(step.on_timeout, level)
            front = level.prefix if step.signal in self._shared_signals else ""
            return Wait(name, front + step.signal, step.timeout, after, step.key)
        assert isinstance(step, ConditionalSagaStep)
        return self._choice(step, level, name)

    def _nested(self, step: NestedSagaStep, name: str) -> NestedSaga:
        model, inner = step.nested.model, self.of(step.nested, f"{name}.")
        named = model.name_on(self._app.main) if model else ""
        made = NestedSaga(name, inner, step.inputs, step.returns, named)
        check_seen(made)
        return made

    def _choice(self, step: ConditionalSagaStep, level: _Level, name: str) -> Choice:
        calls = Calls(self._app, self._found[id(step)], name)
        cases = []
        for (role, condition), inner in zip(step.operations(), step.children, strict=False):
            attempts = condition.options.get("max_attempts", None if self._past_pivot else 1)
            cases.append(Case(calls.of(condition, role, True, attempts), self._node(inner, level)))
        rest = None if step.otherwise is None else self._node(step.otherwise, level)
        return Choice(name, tuple(cases), rest)

    def _step(self, original: LocalSagaStep, level: _Level, name: str) -> PlanStep:
        step = self._completed[id(original)]
        assert step.action is not None
        options, key = step.options, level.keys[id(original)]
        calls = Calls(self._app, self._found[id(original)], name)
        attempts: int | None = 1
        read_only = bool(options.get("read_only"))
        on_lost = read_only or isinstance(step, RemoteSagaStep) or options.get("on_lost")
        if self._past_pivot or options.get("retriable"):
            attempts = step.action.options.get("max_attempts")
        compensation, commit = self._compensation(step, calls), self._commit(step, calls)
        made = PlanStep(
            name,
            calls.of(step.action, "action", on_lost, attempts),
            compensation,
            pivot=bool(options.get("pivot")),
            compensate_on_failure=_class_names(
                name, self._app, options.get("compensate_on_failure", False)
            ),
            read_only=read_only,
            on_exhausted=options.get("on_exhausted") or "compensate",
            result_key=key if key != name else "",
            commit=commit,
        )
        if isinstance(step, RemoteSagaStep):
            made = self._remote(step, made, calls)
        self._past_pivot = self._past_pivot or made.pivot
        if not level.prefix:
            self.own.append(made)
        return made

    def _remote(self, step: RemoteSagaStep, made: PlanStep, calls: Calls) -> RemoteStep:
        known = {each.name: getattr(made, each.name) for each in fields(made)}
        handlers: dict[str, Any] = {}
        for role, operation in (("on_success", step.success), ("on_error", step.error)):
            if operation is not None:
                call = calls.of(operation, role, True, made.action.max_attempts, response=True)
                handlers[role] = self._where(step, call)
        timeout = Settings.of(self._app).remote_timeout if step.timeout is None else step.timeout
        return RemoteStep(**known, **handlers, timeout=timeout)

    def _compensation(self, step: LocalSagaStep, calls: Calls) -> Call | None:
        if step.compensation is None:
            return None
        limit = Settings.of(self._app).compensation_max_attempts
        attempts = step.compensation.options.get("max_attempts", limit)
        compensation = calls.of(step.compensation, "compensation", True, attempts)
        return self._where(step, compensation)

    def _commit(self, step: LocalSagaStep, calls: Calls) -> Call | None:
        if step.commit_task is None:
            return None
        attempts = step.commit_task.options.get("max_attempts")
        made = calls.of(step.commit_task, "commit", True, attempts)
        return self._where(step, replace(made, returns=False))

    def _where(self, step: LocalSagaStep, call: Call) -> Call:
        """A later task of a step goes where its action goes, unless it says otherwise."""
        assert step.action is not None
        given = {key: step.action.options.get(key) for key in ("queue", "priority")}
        given = {key: value for key, value in given.items() if value is not None}
        return filled(self._app, call, given)


def _collected(body: Node, key: str) -> Node:
    """The body of a loop, whose single task puts its result under the key that is collected.

    So does the single task of an alternative, and of a saga of one step.
    """
    if isinstance(body, Wait):
        after = None if body.on_timeout is None else _collected(body.on_timeout, key)
        return replace(body, key=key, on_timeout=after)
    if isinstance(body, Choice):
        cases = tuple(replace(case, node=_collected(case.node, key)) for case in body.cases)
        rest = None if body.otherwise is None else _collected(body.otherwise, key)
        return replace(body, cases=cases, otherwise=rest)
    if isinstance(body, NestedSaga) and len(body.steps) == 1 and body.returns is None:
        return replace(body, steps=(_collected(body.steps[0], key),))
    if isinstance(body, PlanStep) and body.action.style == "inputs":
        return replace(body, action=replace(body.action, returns=key))
    return body


def _class_names(step: str, app: Celery, given: Any) -> bool | tuple[str, ...]:
    if isinstance(given, bool):
        return given
    classes = given if isinstance(given, (list, tuple)) else (given,)
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise DefinitionError(
                f"step {step!r}: compensate_on_failure: expected True, False or exception classes, "
                f"found {cls!r}"
            )
    names: list[str] = []
    for cls in classes:
        names.append(class_name(cls))
        if cls.__module__ == "__main__" and app.main:
            # A worker imports the script under the name that Celery gives its tasks.
            names.append(f"{app.main}.{cls.__qualname__}")
    return tuple(names)
