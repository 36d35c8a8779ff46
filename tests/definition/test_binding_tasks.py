"""Every kind of Celery task as a step: its parameters are found behind all wrappers."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Task, shared_task
from pydantic import BaseModel

from celery_saga import DefinitionError, Saga, saga_step
from celery_saga.core.plan import Call, Input
from tests.definition.building import call_of, new_app, plan_of

app = new_app("binding")

INPUTS = (Input("total", ("total",)), Input("note", ("note",), required=False))


@app.task(shared=False)
def ordinary(total: float, note: str = "") -> None: ...


@app.task(bind=True, shared=False)
def bound(self: Any, total: float, note: str = "") -> None: ...


@app.task(autoretry_for=(ValueError,), retry_backoff=True, shared=False)
def retried(total: float, note: str = "") -> None: ...


@app.task(bind=True, autoretry_for=(ValueError,), shared=False)
def bound_and_retried(self: Any, total: float, note: str = "") -> None: ...


class Order(BaseModel):
    total: float


@app.task(pydantic=True, shared=False)
def validated(total: Order, note: str = "") -> None: ...


@app.task(pydantic=True, bind=True, autoretry_for=(ValueError,), shared=False)
def validated_and_all(self: Any, total: Order, note: str = "") -> None: ...


class Base(Task):  # type: ignore[type-arg]
    """A user's base class."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


@app.task(base=Base, shared=False)
def with_base(total: float, note: str = "") -> None: ...


class ClassBased(Task):  # type: ignore[type-arg]
    name = "binding.class_based"

    def run(self, total: float, note: str = "") -> None: ...


class_based = app.register_task(ClassBased())


@shared_task
def shared(total: float, note: str = "") -> None: ...


@shared_task(bind=True)
def shared_and_bound(self: Any, total: float, note: str = "") -> None: ...


KINDS = {
    "ordinary": ordinary,
    "bound": bound,
    "retried": retried,
    "bound and retried": bound_and_retried,
    "validated": validated,
    "validated and all": validated_and_all,
    "with base": with_base,
    "class based": class_based,
    "shared": shared,
    "shared and bound": shared_and_bound,
}


@pytest.mark.parametrize("task", KINDS.values(), ids=KINDS.keys())
class TestKindsOfTasks:
    def test_by_object(self, task: Any) -> None:
        call = call_of(Saga(steps=[task], app=app))
        assert call == Call(task.name, "inputs", INPUTS, rerun=False)

    def test_by_name(self, task: Any) -> None:
        by_name = call_of(Saga(steps=[task.name], app=app))
        assert by_name == call_of(Saga(steps=[task], app=app))

    def test_as_a_compensation(self, task: Any) -> None:
        saga = Saga(app=app)
        saga.local_step(ordinary).on_failure(task, inputs=["total"])
        compensation = plan_of(saga).steps[0].compensation
        assert compensation is not None
        assert compensation.inputs == INPUTS[:1]

    def test_with_the_decorators_word(self, task: Any) -> None:
        def make(**options: Any) -> Call:
            saga_step(**options)(task)
            try:
                return call_of(Saga(steps=[task], app=app))
            finally:
                saga_step(task)

        assert make(context=True).style == "context"
        assert make(inputs={"total": "sum"}).inputs == (
            Input("total", ("sum",)),
            INPUTS[1],
        )
        assert make(returns="payment").returns == "payment"


def test_the_decorators_option_context_holds_for_a_compensation_too() -> None:
    saga_step(context=True)(bound)
    saga = Saga(app=app)
    saga.local_step(ordinary).on_failure(bound)
    compensation = plan_of(saga).steps[0].compensation
    saga_step(bound)
    assert compensation is not None
    assert compensation.style == "context"


class Giving(Task):  # type: ignore[type-arg]
    """Gives its tasks an argument, as the class of a web framework's app does."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, session="session", **kwargs)


def hiding(function: Any) -> Any:
    """A decorator without functools.wraps."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    wrapper.__name__ = function.__name__
    return wrapper


def charge(session: Any, total: float) -> None: ...


def whatever(**options: Any) -> None: ...


def with_run(base: Any = Task, **attributes: Any) -> Any:
    attributes = {"name": f"binding.run_{len(app.tasks)}", "run": staticmethod(charge)} | attributes
    return app.register_task(type("WithRun", (base,), attributes)())


def declared(function: Any, **options: Any) -> Any:
    return app.task(shared=False, name=f"binding.declared_{len(app.tasks)}", **options)(function)


class TestListsThatAreComplete:
    """``inputs=[...]`` is all that a task gets, where Celery's own check takes that."""

    @pytest.mark.parametrize(
        "make",
        [
            lambda: declared(charge, typing=False),
            lambda: declared(charge, typing=False, base=Giving),
            lambda: declared(hiding(charge)),
            lambda: declared(whatever),
            lambda: declared(whatever, bind=False, autoretry_for=(ValueError,)),
            lambda: with_run(Giving),
            lambda: with_run(typing=False),
        ],
    )
    def test_what_celery_does_not_check(self, make: Any) -> None:
        saga = Saga(app=app)
        saga.local_step(make(), inputs=["total"])
        assert call_of(saga).inputs == INPUTS[:1]

    @pytest.mark.parametrize(
        "make",
        [lambda: declared(charge), lambda: declared(charge, base=Giving), with_run],
    )
    def test_what_it_refuses(self, make: Any) -> None:
        saga = Saga(app=app)
        saga.local_step(make(), inputs=["total"])
        with pytest.raises(DefinitionError, match="lacks the required parameter 'session'"):
            call_of(saga)


class TestParametersThatCannotBeKnown:
    @pytest.mark.parametrize("role", ["action", "compensation"])
    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("function", [hiding(charge), whatever], ids=["hidden", "options"])
    def test_are_refused_at_the_commit(self, function: Any, shared: bool, role: str) -> None:
        name = f"binding.unknown_{function.__name__}_{role}_{shared}"
        lazy = new_app("lazy_one")
        task = (shared_task if shared else lazy.task)(name=name)(function)
        saga = Saga("unknown", app=lazy)
        if role == "action":
            saga.local_step(task)
        else:
            saga.local_step("elsewhere.do", inputs=[]).on_failure(task)
        with pytest.raises(DefinitionError, match=rf"task '{name}': .*give inputs=\[\.\.\.\]"):
            saga.commit()
        assert not saga.committed
        assert not lazy.finalized

    def test_of_a_task_by_name_are_refused_when_it_is_started(self) -> None:
        task = declared(whatever)
        saga = Saga(app=app, steps=[task.name]).commit()
        with pytest.raises(DefinitionError, match=r"give inputs=\[\.\.\.\]"):
            call_of(saga)

    def test_of_a_bound_task(self) -> None:
        def bound_and_hidden(self: Any, **options: Any) -> None: ...

        task = new_app("lazy_two").task(bind=True, shared=False)(bound_and_hidden)
        with pytest.raises(DefinitionError, match=r"give inputs=\[\.\.\.\]"):
            Saga(steps=[task]).commit()

    def test_a_task_in_context_style_gets_the_context(self) -> None:
        saga = Saga(app=app)
        saga.local_step(declared(hiding(charge)), context=True)
        assert call_of(saga).style == "context"
