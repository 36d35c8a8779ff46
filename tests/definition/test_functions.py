"""Plain functions as steps: their names, and which of them a worker can find."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from celery_saga import Saga, SagaManager
from celery_saga.definition import functions
from celery_saga.definition.steps.tree import located
from celery_saga.errors import DefinitionError
from tests.definition.building import Importer, importer, new_app, plan_of

__all__ = ["importer"]


def top_level(context: Any) -> None: ...


async def awaited(context: Any) -> None: ...


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@logged
def decorated(context: Any) -> None: ...


class Orders:
    """Holds a function."""

    @staticmethod
    def place(context: Any) -> None: ...


def nested() -> Any:
    def inner(context: Any) -> None: ...

    return inner


class TestWireName:
    @pytest.mark.parametrize(
        ("function", "name"),
        [
            (top_level, "top_level"),
            (awaited, "awaited"),
            (decorated, "decorated"),
            (Orders.place, "Orders.place"),
        ],
    )
    def test_of_a_named_function_is_its_module_and_name(self, function: Any, name: str) -> None:
        expected = f"saga:{__name__}.{name}"
        assert functions.wire_name(function, None) == expected
        assert functions.wire_name(function, "saga.0.action") == expected

    @pytest.mark.parametrize("function", [lambda context: None, nested()])
    def test_of_a_nameless_one_comes_from_its_saga(self, function: Any) -> None:
        assert functions.wire_name(function, "order.0.action") == "saga:order.0.action"
        assert functions.wire_name(function, None) is None

    @pytest.mark.parametrize("target", [functools.partial(top_level), Orders(), 7])
    def test_of_something_else_is_refused(self, target: Any) -> None:
        with pytest.raises(DefinitionError, match="expected a plain function, found"):
            functions.wire_name(target, "order.0.action")

    @pytest.mark.parametrize(
        ("name", "main", "expected"),
        [
            ("saga:__main__.pay", "shop", "saga:shop.pay"),
            ("saga:__main__.pay", None, "saga:__main__.pay"),
            ("saga:stock.pay", "shop", "saga:stock.pay"),
            ("saga:my__main__.pay", "shop", "saga:my__main__.pay"),
        ],
    )
    def test_of_a_script_follows_the_app(self, name: str, main: str | None, expected: str) -> None:
        assert functions.task_name(name, main) == expected

    @pytest.mark.parametrize(
        ("options", "index", "role", "name"),
        [
            ({}, 0, "action", "saga:order.0.action"),
            ({}, 1, "compensation", "saga:order.1.compensation"),
            ({"name": "pay"}, 1, "action", "saga:order.pay.action"),
        ],
    )
    def test_of_a_lambda_names_saga_step_and_role(
        self, options: dict[str, Any], index: int, role: str, name: str
    ) -> None:
        saga = Saga("order", steps=["some.task"])
        saga.local_step(lambda context: None, **(options if index else {}))
        found = list(located(saga))[index]
        assert found.callable_name(lambda context: None, role) == name


SAGAS = """
    from celery_saga import Saga, saga_step

    def pay(context): ...
    def refund(context): ...
    def used_later(context): ...

    @saga_step
    def known_by_decorator(context): ...

    def compensation_of_decorated(context): ...

    @saga_step(compensation=compensation_of_decorated)
    def with_compensation(context): ...

    def factory(name):
        saga = Saga(name)
        saga.local_step(pay).on_failure(refund)
        saga.local_step(lambda context: None, name="log")
        saga.local_step(lambda context: None)
        return saga.commit()

    def later():
        return Saga("run-time", steps=[used_later]).commit()
"""


class TestImport:
    def test_functions_of_a_saga_that_is_committed_at_import_are_known(
        self, importer: Importer
    ) -> None:
        module = importer.load(SAGAS + '\n    saga = factory("imported")')
        name = module.__name__
        known = [functions.known(f"saga:{name}.{function}") for function in ("pay", "refund")]
        assert known == [module.pay, module.refund]
        steps = module.saga.steps
        assert functions.known("saga:imported.log.action") is steps[1].action.callback
        assert functions.known("saga:imported.2.action") is steps[2].action.callback
        assert [step.action.task for step in plan_of(module.saga, new_app()).steps] == [
            f"saga:{name}.pay",
            "saga:imported.log.action",
            "saga:imported.2.action",
        ]

    def test_a_factory_of_another_module_counts(self, importer: Importer) -> None:
        factories = importer.load(SAGAS)
        module = importer.load(
            f'import {factories.__name__} as f\nsaga = f.factory("from-elsewhere")'
        )
        assert functions.known("saga:from-elsewhere.log.action") is not None
        plan_of(module.saga, new_app())

    def test_the_decorator_makes_a_function_and_its_compensation_known(
        self, importer: Importer
    ) -> None:
        module = importer.load(SAGAS)
        for name in ("known_by_decorator", "with_compensation", "compensation_of_decorated"):
            found = functions.known(f"saga:{module.__name__}.{name}")
            assert found is getattr(module, name)

    def test_a_saga_built_at_run_time_makes_nothing_known(self, importer: Importer) -> None:
        module = importer.load(SAGAS)
        saga = module.later()
        assert functions.known(f"saga:{module.__name__}.used_later") is None
        with pytest.raises(DefinitionError, match="worker could not find"):
            plan_of(saga, new_app())

    def test_a_saga_built_at_run_time_may_use_what_is_known(self, importer: Importer) -> None:
        module = importer.load(SAGAS)
        app = new_app()
        assert SagaManager(app).register(module.used_later) is module.used_later
        assert plan_of(module.later(), app).steps[0].action.task.endswith(".used_later")
        saga = Saga("run-time", steps=[module.known_by_decorator, module.with_compensation])
        assert len(plan_of(saga, app).steps) == 2

    def test_a_factory_may_be_called_again_at_run_time(self, importer: Importer) -> None:
        module = importer.load(SAGAS + '\n    saga = factory("again")')
        app = new_app()
        assert plan_of(module.factory("again"), app).text == plan_of(module.saga, app).text

    def test_a_function_is_handed_to_each_app_once(
        self, importer: Importer, recwarn: pytest.WarningsRecorder
    ) -> None:
        app = new_app()
        app.finalize()
        recwarn.clear()  # of other modules' tasks
        module = importer.load(SAGAS + '\n    sagas = [factory("one"), factory("two")]')
        assert f"saga:{module.__name__}.pay" in app.tasks
        assert [str(warning.message) for warning in recwarn] == []

    def test_apps_that_come_later_get_them_too(self, importer: Importer) -> None:
        module = importer.load(SAGAS + '\n    saga = factory("early")')
        assert f"saga:{module.__name__}.pay" in new_app().tasks


TWINS = """
    from celery_saga import Saga

    def make(name, function):
        return Saga(name, steps=[function]).commit()

    def with_rate(name, rate):
        return Saga(name, steps=[lambda context, rate=rate: None]).commit()

    def with_closure(name, rate):
        return Saga(name, steps=[lambda context: rate]).commit()
"""


class TestSameName:
    @pytest.mark.parametrize(
        "twins",
        [
            'make("lines", lambda c: 1)\n    make("lines", lambda c: 2)',
            '[make("one-line", lambda c: 1), make("one-line", lambda c: 2)]',
            '[with_rate("defaults", 1), with_rate("defaults", 2)]',
            '[with_closure("closure", 1), with_closure("closure", 2)]',
        ],
    )
    def test_two_functions_of_one_name_are_refused(self, twins: str, importer: Importer) -> None:
        name = importer.write(f"{TWINS}\n    {twins}")
        with pytest.raises(DefinitionError, match="is the name of two functions") as caught:
            __import__(name)
        assert str(caught.value).count(f"{name}.py:") == 2

    @pytest.mark.parametrize(
        "twins",
        [
            '[make("equal", top) for top in [lambda c: 1] * 2]',
            '[with_rate("equal-defaults", 1), with_rate("equal-defaults", 1)]',
            '[make("equal-code", lambda c: 1) for number in range(2)]',
        ],
    )
    def test_the_same_function_twice_is_one(self, twins: str, importer: Importer) -> None:
        importer.load(f"{TWINS}\n    {twins}")

    def test_a_run_time_saga_may_not_exchange_what_workers_run(self, importer: Importer) -> None:
        module = importer.load(f'{TWINS}\n    made = with_rate("exchange", 1)')
        app = new_app()
        plan_of(module.with_rate("exchange", 1), app)
        with pytest.raises(DefinitionError, match="another function"):
            plan_of(module.with_rate("exchange", 2), app)

    def test_a_module_may_be_imported_anew(self, importer: Importer) -> None:
        before = importer.load(SAGAS + '\n    saga = factory("anew")')
        app = new_app()
        plan_of(before.saga, app)
        after = importer.load_again(before)
        assert after.pay is not before.pay
        assert functions.known(f"saga:{before.__name__}.pay") is after.pay
        plan_of(after.saga, app)
