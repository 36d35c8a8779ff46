"""Every kind of task is a step unchanged: what it receives, and what becomes of its result."""

from __future__ import annotations

import pytest

from celery_saga import Saga, SagaCompensated

pytestmark = pytest.mark.worker


@pytest.fixture
def kinds(flows):
    from tests.worker.apps import kinds

    return kinds


@pytest.fixture
def run(kinds):
    """Run a saga of one or more steps to its end and return the final context as a dict."""

    def run(*steps, options=(), **context):
        saga = Saga("one", app=kinds.app)
        for step in steps:
            saga.local_step(step, **dict(options))
        return dict(saga.commit().delay(**context).get(timeout=30))

    return run


class TestKinds:
    def test_app_task(self, run, kinds):
        assert run(kinds.app_task, a=1) == {"a": 1, "app_task": 11}

    def test_shared_task(self, run, kinds):
        assert run(kinds.shared, a=4) == {"a": 4, "doubled": 8}

    def test_bound_task(self, kinds):
        result = kinds.one("bound", kinds.bound).delay(a=1)
        context = result.get(timeout=30)
        own = f"{result.id}~f0~1"
        assert context == {"a": 2, "task_id": own, "root_id": own, "args": []}

    def test_class_based_task_with_its_own_call(self, run, kinds):
        context = run(kinds.class_based, a=2)
        assert context == {"a": 2, "outer": "ClassBased", "inner": 200}

    def test_task_with_a_base_that_has_a_call(self, run, kinds):
        assert run(kinds.with_base, a=2)["inner"] == 20

    def test_pydantic_task(self, run, kinds):
        context = run(kinds.priced, order={"lines": [1, 2, 3]})
        assert context == {"order": {"lines": [1, 2, 3]}, "total": 6}

    def test_async_task(self, run, kinds):
        assert run(kinds.fetched, a=3) == {"a": 3, "fetched": 3}

    def test_async_task_that_fails(self, run, kinds):
        with pytest.raises(SagaCompensated, match="LookupError: nothing there"):
            run(kinds.fetched_without_success, a=3)

    def test_task_of_which_the_caller_knows_only_the_name(self, run):
        context = run("elsewhere.ship", options={"inputs": {"address": "to"}}, to="here")
        assert context == {"to": "here", "shipped": ["here", False]}

    def test_declared_step(self, run, kinds):
        assert run(kinds.declared, start=1) == {"start": 1, "declared": [1, 1]}

    @pytest.mark.parametrize("by", ["object", "name"])
    @pytest.mark.parametrize(("name", "booking"), [("book", 2), ("book_shared", 3)])
    def test_a_step_that_was_declared_below_its_tasks_decorator_is_compensated(
        self, kinds, journal, by, name, booking
    ):
        step = getattr(kinds, name)
        saga = kinds.one("below", step if by == "object" else step.name, kinds.fully_booked)
        result = saga.delay(a=1)
        with pytest.raises(SagaCompensated, match="no room"):
            result.get(timeout=30)
        assert [line["booking"] for line in journal.said(result.id, "began")] == [booking]

    def test_one_task_twice(self, run, kinds):
        context = run(kinds.app_task, kinds.app_task, a=1)
        assert context == {"a": 1, "app_task": 11, "app_task_2": 11}


class TestRetries:
    def test_autoretry_until_it_works_is_one_step(self, flows, journal, kinds):
        result = kinds.one("flaky", kinds.flaky).delay(failures=2)

        assert result.get(timeout=30)["flaky_done"] is True
        began = journal.said(result.id, "began")
        assert [line["attempt"] for line in began] == [1, 2, 3]
        assert {line["idempotency_key"] for line in began} == {f"{result.id}/flaky/f/0"}

    def test_autoretry_that_is_exhausted_fails_the_step_with_the_true_error(self, journal, kinds):
        result = kinds.one("flaky", kinds.flaky).delay(failures=9)

        with pytest.raises(SagaCompensated, match="ConnectionError: not now"):
            result.get(timeout=30)
        assert len(journal.said(result.id, "began")) == 3

    def test_self_retry_until_it_works(self, journal, kinds):
        result = kinds.one("self", kinds.self_retry).delay(failures=2)

        assert result.get(timeout=30)["self_retry"] == 2
        keys = {line["idempotency_key"] for line in journal.said(result.id, "began")}
        assert keys == {f"{result.id}/self_retry/f/0"}

    def test_self_retry_that_is_exhausted(self, journal, kinds):
        result = kinds.one("self", kinds.self_retry).delay(failures=9)

        with pytest.raises(SagaCompensated, match="MaxRetriesExceededError"):
            result.get(timeout=30)
        assert len(journal.said(result.id, "began")) == 4


class TestContextStyle:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("in place", {"a": 2}),
            ("new context", {"a": 1, "replaced": True}),
            ("mapping", {"only": 1}),
            ("true", {"a": 1, "true": "kept"}),
            ("async", {"a": 1, "waited": True}),
            ("annotation", {"a": 1, "annotated": "SagaContext"}),
            ("name", {"a": 1, "by_name": True}),
            ("word", {"a": 1, "by_word": True}),
            ("lambda", {"a": 1, "lambda": True}),
            ("constant", {"a": 3}),
        ],
    )
    def test_what_it_gives_back_becomes_the_context(self, kinds, name, expected):
        assert kinds.contexts[name].delay(a=1).get(timeout=30) == expected

    def test_it_and_an_ordinary_task_share_one_context(self, kinds):
        assert kinds.plain_saga.delay(a=1).get(timeout=30) == {"a": 2, "app_task": 12}


class TestInputs:
    def test_renamed_and_constant(self, kinds):
        assert kinds.renamed.delay(x=1, b=99).get(timeout=30)["sum"] == 6

    def test_a_path(self, kinds):
        order = {"lines": [{"n": 1}, {"n": 7}]}
        assert kinds.path.delay(order=order).get(timeout=30)["sum"] == 17

    def test_a_list_is_complete_and_feeds_keyword_arguments(self, kinds):
        got = kinds.listed.delay(a=1, b="not asked for", extra=5).get(timeout=30)["got"]
        assert got == {"a": 1, "b": "default", "args": [], "c": "c", "kwargs": {"extra": 5}}

    def test_by_name_a_context_key_beats_a_default_and_the_rest_gets_nothing(self, kinds):
        got = kinds.by_rule.delay(a=1, b=2, args=[3], kwargs={"d": 4}, e=5).get(timeout=30)["got"]
        assert got == {"a": 1, "b": 2, "args": [], "c": "c", "kwargs": {}}


class TestResults:
    def test_returns_false_drops_it(self, run, kinds):
        assert run(kinds.shared, options={"returns": False}, a=1) == {"a": 1}

    def test_returns_keeps_a_mapping_whole(self, run, kinds):
        context = run(kinds.shared, options={"returns": "r"}, a=1)
        assert context == {"a": 1, "r": {"doubled": 2}}

    def test_a_step_sees_what_the_step_before_it_returned(self, run, kinds):
        context = run(kinds.bound, kinds.app_task, a=1)
        assert context["app_task"] == 12

    def test_values_come_back_equal_and_of_their_type(self, kinds, journal):
        import datetime as dt
        import decimal
        import uuid

        values = {
            "a": 1,
            "when": dt.datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=dt.timezone.utc),
            "day": dt.date(2030, 1, 2),
            "at": dt.time(3, 4, 5),
            "amount": decimal.Decimal("1.10"),
            "id": uuid.UUID(int=5),
            "raw": b"\x00\xff",
            "half": 2.0,
            "deep": [{"none": None, "yes": True}],
        }
        context = kinds.contexts["in place"].delay(**values).get(timeout=30)
        assert context == {**values, "a": 2}
        assert [type(context[key]) for key in values] == [type(value) for value in values.values()]


def test_saga_info_names_the_saga_and_step_of_a_body(kinds):
    result = kinds.one("described", kinds.described).delay()

    assert result.get(timeout=30)["info"] == {
        "saga_id": result.id,
        "saga_name": "described",
        "step": "described",
        "direction": "f",
        "attempt": 1,
        "round": 0,
        "idempotency_key": f"{result.id}/described/f/0",
        "forward_key": f"{result.id}/described/f/0",
        "cause": None,
    }
