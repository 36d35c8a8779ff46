"""Defining a saga touches no app and no lazy task, so that importing it settles nothing."""

from __future__ import annotations

import pytest

from tests.definition.building import Importer

BEFORE = """
    from celery import Celery, _state, shared_task
    from celery_saga import Const, LocalSagaStep, Saga, SagaManager, SagaOperation, saga_step

    app = Celery("lazy", set_as_current=False)

    @app.task
    def charge(total): ...

    @app.task(bind=True, autoretry_for=(ValueError,), pydantic=True)
    def refund(self, total): ...

    @shared_task
    def reserve(order_id): ...

    @shared_task(bind=True)
    def release(self, order_id): ...

    def plain(context): ...
"""

AFTER = """
    touched = [name for name, task in [("charge", charge), ("refund", refund)]
               if task.__evaluated__()]
    if app.finalized:
        touched.append("app finalized")
    if app.configured:
        touched.append("app configured")
    if _state.default_app is not None:
        touched.append("default app")
    if _state._tls.current_app is not None:
        touched.append("current app")
    print(touched)
"""

#: Each is code of a module that defines sagas.
QUIET = {
    "nothing": "",
    "decorator above app.task": """
    @saga_step(compensation=refund, inputs={"total": "sum"}, returns="payment", queue="slow")
    @app.task
    def pay(total): ...
    assert not pay.__evaluated__()
    """,
    "decorator above shared_task": """
    @saga_step(compensation=release, context=True, pivot=False, on_lost="rerun")
    @shared_task
    def pay(total): ...
    """,
    "bare decorator": """
    @saga_step
    @shared_task
    def pay(total): ...
    """,
    "decorator above both kinds, used in a saga": """
    saga_step(compensation=refund)(charge)
    saga_step(compensation=release, max_attempts=3, retriable=True)(reserve)
    Saga("order", steps=[reserve, charge]).commit()
    """,
    "decorator below both kinds, used in a saga": """
    from functools import wraps

    def logged(function):
        return wraps(function)(lambda *args: function(*args))

    @app.task
    @logged
    @saga_step(compensation=refund)
    def pay(total): ...

    @shared_task(bind=True)
    @saga_step(compensation=release)
    def pay_shared(self, total): ...

    saga = Saga("order", steps=[pay, pay_shared])
    assert [step.compensation.callback for step in saga.steps] == [refund, release]
    saga.commit()
    assert not pay.__evaluated__()
    """,
    "list of tasks": 'Saga("order", steps=[reserve, charge, plain]).commit()',
    "anonymous": "Saga(steps=[reserve, charge]).commit()",
    "given app": 'Saga("order", steps=[charge], app=app).commit()',
    "chain": """
    saga = Saga("order")
    saga.local_step(reserve, name="a", returns="id").on_failure(release, inputs=["order_id"])
    saga.local_step(charge, inputs={"total": Const(3)}).on_failure(refund, {"total": 3})
    saga.local_step().on_execute(charge, pivot=True)
    saga.local_step(reserve, max_attempts=3)
    saga.commit()
    """,
    "chain through the steps": """
    Saga("order").local_step(reserve).on_failure(release).local_step(charge).commit()
    """,
    "objects": """
    Saga("order", steps=[
        LocalSagaStep(reserve, release),
        LocalSagaStep(SagaOperation(charge, {"total": 3}, queue="q"), SagaOperation(refund)),
    ]).commit()
    """,
    "validation": """
    saga = Saga("order", steps=[reserve, charge]).commit()
    saga.validate()
    """,
    "mistakes": """
    from celery_saga.errors import DefinitionError
    for options in ({"quue": 1}, {"on_lost": 1}, {"pivot": 1.5}):
        for task in (charge, reserve):
            try:
                Saga("order", steps=[]).local_step(task, **options)
                print("accepted", options)
            except DefinitionError:
                pass
    """,
    "a manager": 'SagaManager(app)\n    Saga("order", steps=[reserve, charge]).commit()',
}

#: What the same modules report when they do touch something; the default app lasts, so it is last.
LOUD = {
    "name of a task": ("charge.name", "charge"),
    "tasks of the app": ("app.tasks", "app finalized"),
    "configuration": ("app.conf.timezone", "app configured"),
    "name of a shared task": ("reserve.name", "default app"),
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each module reports; all are imported by one new interpreter, the loud ones last."""
    importer = Importer(tmp_path_factory.mktemp("lazy"))
    loud = {name: code for name, (code, _) in LOUD.items()}
    modules = {
        name: importer.write(f"{BEFORE}\n    {code}\n{AFTER}")
        for name, code in {**QUIET, **loud}.items()
    }
    output = importer.run_code("\n".join(f"import {module}" for module in modules.values()))
    return dict(zip(modules, output.splitlines(), strict=True))


@pytest.mark.parametrize("name", QUIET)
def test_nothing_is_touched(name: str, reports: dict[str, str]) -> None:
    assert reports[name] == "[]"


@pytest.mark.parametrize("name", LOUD)
def test_a_touch_would_be_noticed(name: str, reports: dict[str, str]) -> None:
    assert f"'{LOUD[name][1]}'" in reports[name]
