"""A saga in process: what happens to its steps, what time brings, and what a test expects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from celery_saga import AbortSaga, Saga, SagaManager, SagaStatus, saga_info
from celery_saga.errors import SetupError
from celery_saga.testing import Run, Scenario, given

#: Servers that do not exist: nothing may connect to them.
NOWHERE = {"broker": "redis://nowhere.invalid:1/0", "backend": "redis://nowhere.invalid:1/1"}

pytestmark = pytest.mark.filterwarnings("ignore::celery_saga.errors.DefinitionWarning")


class CardDeclined(Exception):
    pass


class Shop:
    """An app with a checkout of three steps, and what its bodies were called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.app = Celery("kit", **NOWHERE, set_as_current=False)
        SagaManager(self.app)

        @self.app.task(name="reserve", shared=False)
        def reserve(order_id: int) -> dict[str, Any]:
            self.calls.append(("reserve", {"order_id": order_id}))
            return {"reservation": f"r{order_id}"}

        @self.app.task(name="release", shared=False)
        def release(reservation: str | None = None) -> None:
            self.calls.append(("release", {"reservation": reservation}))

        @self.app.task(name="charge", shared=False, autoretry_for=(ConnectionError,), max_retries=2)
        def charge(order_id: int) -> dict[str, Any]:
            self.calls.append(("charge", {"key": saga_info().idempotency_key}))
            return {"payment": order_id * 10}

        @self.app.task(name="refund", shared=False)
        def refund(payment: int | None = None) -> None:
            self.calls.append(("refund", {"payment": payment}))

        @self.app.task(name="ship", shared=False, acks_late=True)
        def ship(order_id: int) -> dict[str, Any]:
            self.calls.append(("ship", {}))
            return {"parcel": order_id}

        self.tasks = {each.name: each for each in (reserve, release, charge, refund, ship)}
        self.checkout = self.saga()

    def saga(self, **options: Any) -> Saga:
        tasks, saga = self.tasks, Saga("checkout", app=self.app)
        saga.local_step(tasks["reserve"]).on_failure(tasks["release"])
        saga.local_step(tasks["charge"], **options).on_failure(tasks["refund"])
        saga.local_step(tasks["ship"])
        return saga.commit()

    @property
    def called(self) -> list[str]:
        return [name for name, _ in self.calls]


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def order(shop: Shop) -> Scenario:
    return given(shop.checkout).context(order_id=7)


#: What happens to a step -> how the saga ends, which were compensated, what the bodies did.
ENDS: Any = {
    "fails": (
        lambda it: it.step("charge").fails(CardDeclined("no")),
        ("COMPENSATED", ["reserve"], ["reserve", "release"]),
    ),
    "fails with an abort": (
        lambda it: it.step("charge").fails(AbortSaga("no")),
        ("COMPENSATED", ["reserve"], ["reserve", "release"]),
    ),
    "fails after its body": (
        lambda it: it.step("charge").fails_after_body(CardDeclined("no")),
        ("COMPENSATED", ["reserve"], ["reserve", "charge", "release"]),
    ),
    "fails once with an error that its task retries": (
        lambda it: it.step("charge").fails(ConnectionError("no"), times=1),
        ("COMPLETED", [], ["reserve", "charge", "ship"]),
    ),
    "fails with it each time": (
        lambda it: it.step("charge").fails(ConnectionError("no")),
        ("COMPENSATED", ["reserve"], ["reserve", "release"]),
    ),
    "loses its worker before its body": (
        lambda it: it.step("charge").loses_its_worker(before_body=True),
        ("COMPENSATED", ["charge", "reserve"], ["reserve", "refund", "release"]),
    ),
    "loses its worker": (
        lambda it: it.step("charge").loses_its_worker(),
        ("COMPENSATED", ["charge", "reserve"], ["reserve", "charge", "refund", "release"]),
    ),
    "loses its worker once, and may be run again": (
        lambda it: it.step("ship").loses_its_worker(times=1),
        ("COMPLETED", [], ["reserve", "charge", "ship", "ship"]),
    ),
    "hits its time limit": (
        lambda it: it.step("charge").hits_time_limit(),
        ("COMPENSATED", ["charge", "reserve"], ["reserve", "charge", "refund", "release"]),
    ),
    "hits its soft time limit": (
        lambda it: it.step("charge").hits_time_limit(soft=True),
        ("COMPENSATED", ["charge", "reserve"], ["reserve", "charge", "refund", "release"]),
    ),
    "returns something else": (
        lambda it: it.step("charge").returns({"payment": 1}),
        ("COMPLETED", [], ["reserve", "ship"]),
    ),
    "runs twice": (
        lambda it: it.step("charge").runs_twice(),
        ("COMPLETED", [], ["reserve", "charge", "charge", "ship"]),
    ),
    "is cancelled while a step runs": (
        lambda it: it.step("reserve").takes(10).cancelled(after=0),
        ("COMPENSATED", [], []),
    ),
    "a compensation fails once": (
        lambda it: it.step("ship").fails().compensation("charge").fails(times=1),
        (
            "COMPENSATED",
            ["charge", "reserve"],
            ["reserve", "charge", "refund", "release"],
        ),
    ),
    "a compensation fails for good": (
        lambda it: it.step("ship").fails().compensation("charge").fails(),
        ("STUCK", ["reserve"], ["reserve", "charge", "release"]),
    ),
    "a compensation loses its worker once": (
        lambda it: it.step("ship").fails().compensation("charge").loses_its_worker(times=1),
        (
            "COMPENSATED",
            ["charge", "reserve"],
            ["reserve", "charge", "refund", "refund", "release"],
        ),
    ),
}


class TestEnds:
    def test_it_completes_with_the_bodies_of_the_project(self, shop: Shop, order: Scenario) -> None:
        run = order.expect_completed(reservation="r7", payment=70, parcel=7)
        assert shop.called == ["reserve", "charge", "ship"]
        assert run.status is SagaStatus.COMPLETED
        assert run.context["order_id"] == 7
        run.expect_ran("reserve", "charge", "ship")

    @pytest.mark.parametrize("name", ENDS)
    def test_what_happens_to_a_step(self, shop: Shop, order: Scenario, name: str) -> None:
        happens, (status, compensated, called) = ENDS[name]
        run = happens(order).run()
        assert run.status == status, run
        assert [ran.step for ran in run.trail if ran.compensation and ran.returned] == compensated
        assert shop.called == called

    def test_keys_and_attempts_are_those_of_a_worker(self, shop: Shop, order: Scenario) -> None:
        order = order.options(saga_id="order-7")
        run = order.step("charge").fails_after_body(ConnectionError(), times=2).run()
        keys = [values["key"] for name, values in shop.calls if name == "charge"]
        assert keys == ["order-7/charge/f/0"] * 3
        run.expect_completed().expect_attempts("charge", 3)

    def test_a_cancel_at_a_time(self, shop: Shop, order: Scenario) -> None:
        slow = order.step("charge").fails(ConnectionError(), times=2).cancelled(after=1)
        slow.expect_compensated("reserve")

    def test_two_faults_of_one_step_one_after_the_other(self, order: Scenario) -> None:
        order = order.step("ship").loses_its_worker(times=1).step("ship").fails(CardDeclined)
        run = order.run()
        assert [ran.outcome for ran in run.trail if ran.step == "ship"][:2] == [
            "lost its worker",
            "raised",
        ]

    def test_a_task_of_another_service(self, shop: Shop) -> None:
        saga = Saga("booking", app=shop.app)
        saga.local_step("elsewhere.book", inputs={"order_id": "order_id"}, returns="booking")
        saga.commit()
        order = given(saga).context(order_id=7)
        order.step("book").returns("b7").expect_completed(booking="b7")
        assert "elsewhere.book" not in shop.app.tasks
        with pytest.raises(SetupError, match=r"import its module .*\.step\('book'\)\.returns"):
            order.run()


class TestTime:
    def test_backoff_passes_at_once_on_the_clock(self, shop: Shop) -> None:
        @shop.app.task(bind=True, shared=False, max_retries=2, name="slow")
        def slow(self: Any) -> str:
            if self.request.retries < 2:
                raise self.retry(countdown=86_400)
            return "done"

        saga = Saga("slow", app=shop.app)
        saga.local_step(slow, returns="slow")
        run = given(saga.commit()).expect_completed(slow="done")
        assert [ran.at for ran in run.trail] == [0.0, 86_400.0, 172_800.0]
        assert run.clock.elapsed == 172_800.0

    def test_the_engines_own_backoff(self, order: Scenario) -> None:
        run = order.step("ship").fails().compensation("charge").fails(times=3).run()
        at = [ran.at for ran in run.trail if ran.step == "charge" and ran.compensation]
        assert at == sorted(at)
        assert at[0] < at[1] < at[2] < at[3]

    def test_a_deadline(self, order: Scenario) -> None:
        late = order.options(deadline=60).step("charge").takes(61)
        late.expect_compensated("charge", "reserve").expect_failed("ship", "DeadlineExceeded")
        order.options(deadline=60).step("charge").takes(59).expect_completed()

    def test_a_countdown_and_a_sleep(self, shop: Shop) -> None:
        saga = Saga("sleeper", app=shop.app)
        saga.local_step(shop.tasks["reserve"])
        saga.sleep_step(3600)
        saga.local_step(shop.tasks["charge"])
        order = given(saga.commit()).context(order_id=7).options(countdown=60)
        assert [ran.at for ran in order.run().trail] == [60.0, 3660.0]
        run = order.start()
        assert run.trail == []
        assert [ran.step for ran in run.advance(60).trail] == ["reserve"]
        assert [ran.step for ran in run.advance(3599).trail] == ["reserve"]
        run.advance(1).expect_completed()

    def test_bad_times_are_refused(self, order: Scenario) -> None:
        run = order.start()
        with pytest.raises(ValueError, match="advance: expected 0 seconds or more, found -1"):
            run.advance(-1)
        with pytest.raises(ValueError, match="expected 0 seconds or more, found 'x'"):
            run.clock.advance("x")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="times: expected 1 or more, found 0"):
            order.step("charge").fails(times=0)


class TestSignals:
    @pytest.fixture
    def order(self, shop: Shop) -> Scenario:
        saga = Saga("approval", app=shop.app)
        saga.local_step(shop.tasks["reserve"]).on_failure(shop.tasks["release"])
        saga.wait_for("approved", timeout=3600)
        saga.local_step(shop.tasks["charge"])
        return given(saga.commit()).context(order_id=7)

    def test_it_comes(self, order: Scenario) -> None:
        run = order.signal("approved", {"by": "ann"}).expect_completed(payment=70)
        assert run.clock.elapsed == 0.0
        assert order.signal("approved", after=3599).expect_completed().trail[-1].at == 3599.0

    def test_it_does_not_come(self, order: Scenario) -> None:
        order.expect_compensated("reserve")
        order.signal("approved", after=3601)  # nothing happens before it is run

    def test_by_hand(self, order: Scenario) -> None:
        run = order.start().expect_waiting("approved").advance(10)
        run.expect_waiting("approved").signal("approved", {"by": "ann"}).expect_completed()

    def test_cancelled_by_hand(self, order: Scenario) -> None:
        run = order.start()
        assert run.cancel()
        run.expect_compensated("reserve")
        assert not run.cancel()

    def test_one_without_a_timeout_is_waited_for(self, shop: Shop) -> None:
        saga = Saga("patient", app=shop.app)
        saga.wait_for("approved")
        run = given(saga.commit()).expect_waiting("approved")
        assert run.clock.elapsed == 0.0
        run.signal("approved").expect_completed()


class TestOrder:
    """Of branches: the order is that of the plan, or the one that is asked for."""

    @pytest.fixture
    def saga(self, shop: Shop) -> Saga:
        def named(name: str) -> Any:
            @shop.app.task(name=name, shared=False)
            def body(n: int = 0) -> None:
                shop.calls.append((name, {}))

            return body

        saga = Saga("branches", app=shop.app)
        saga.parallel_step(*map(named, ("a", "b", "c")))
        saga.for_each("orders", named("d"), as_="n")
        return saga.commit()

    def names(self, run: Run) -> list[str]:
        return [ran.step for ran in run.trail]

    def test_each_order_is_the_same_each_time(self, saga: Saga) -> None:
        base = given(saga).context(orders=[1, 2])
        assert self.names(base.run()) == ["a", "b", "c", "d[0]", "d[1]"]
        assert self.names(base.order("c", "a").run())[:3] == ["c", "a", "b"]
        drawn = {tuple(self.names(base.shuffled(seed).run())[:3]) for seed in range(20)}
        assert len(drawn) > 2
        assert self.names(base.shuffled(3).run()) == self.names(base.shuffled(3).run())

    def test_one_item_of_a_loop(self, saga: Saga) -> None:
        base = given(saga).context(orders=[1, 2, 3])
        run = base.step("d[1]").fails(CardDeclined).run()
        run.expect_failed("d[1]", CardDeclined)
        every = base.step("d").returns(None).run()
        assert every.status == "COMPLETED"


#: What a test expects and does not find -> the error that it gets.
BAD: dict[str, tuple[Callable[[Scenario], Any], str]] = {
    "another end": (
        lambda it: it.step("charge").fails(CardDeclined("no")).expect_completed(),
        r"expected COMPLETED, found COMPENSATED\n(.*\n)*.*charge +raised CardDeclined: no",
    ),
    "another value": (
        lambda it: it.expect_completed(payment=1),
        r"expected context\['payment'\] == 1, found 70",
    ),
    "a key that is missing": (
        lambda it: it.expect_completed(nothing=1),
        r"expected context\['nothing'\], which is missing",
    ),
    "other compensations": (
        lambda it: it.step("ship").fails().expect_compensated("reserve", "charge"),
        r"expected the compensations of 'reserve', 'charge', found 'charge', 'reserve'",
    ),
    "fewer compensations": (
        lambda it: it.step("charge").fails().expect_compensated(),
        r"expected the compensations of none, found 'reserve'",
    ),
    "other steps": (
        lambda it: it.expect_ran("reserve"),
        r"expected the actions of 'reserve', found 'reserve', 'charge', 'ship'",
    ),
    "stuck elsewhere": (
        lambda it: it.step("ship").fails().compensation("charge").fails().expect_stuck("reserve"),
        r"expected it to be stuck at 'reserve', found 'charge'\n(.*\n)*.*stuck at 'charge'",
    ),
    "another error": (
        lambda it: it.step("charge").fails(CardDeclined).run().expect_failed("charge", OSError),
        r"expected step 'charge' to raise builtins.OSError: .*CardDeclined",
    ),
    "another step's error": (
        lambda it: it.step("charge").fails(CardDeclined).run().expect_failed("ship"),
        r"expected step 'ship' to fail, 'charge' failed",
    ),
    "no error": (
        lambda it: it.run().expect_failed("ship"),
        r"expected step 'ship' to fail, it did not fail",
    ),
    "other attempts": (
        lambda it: it.run().expect_attempts("ship", 2),
        r"expected 2 attempts at 'ship', not 1",
    ),
    "a wait": (lambda it: it.expect_waiting("x"), r"expected RUNNING, found COMPLETED"),
    "arguments of a step that did not run": (
        lambda it: it.step("charge").fails().run().inputs("ship"),
        r"'ship' did not run",
    ),
    "a fault of a step that did not run": (
        lambda it: it.step("charge").fails().step("ship").fails().expect_compensated("reserve"),
        r"the test says: step 'ship' fails; it was not run",
    ),
}


class TestExpectations:
    @pytest.mark.parametrize("name", BAD)
    def test_it_is_said_with_the_whole_run(self, order: Scenario, name: str) -> None:
        expect, text = BAD[name]
        with pytest.raises(AssertionError, match=text) as caught:
            expect(order)
        assert "saga 'checkout'" in str(caught.value)

    def test_what_is_as_expected(self, shop: Shop, order: Scenario) -> None:
        order.step("ship").fails().expect_compensated("charge", "reserve")
        order.step("ship").fails().compensation("charge").fails().expect_stuck("charge")
        run = order.step("charge").fails(CardDeclined("no")).run()
        run.expect_failed("charge", CardDeclined).expect_failed("charge").expect_ran(
            "reserve", "charge"
        )
        assert run.error is not None
        assert run.error.message == "no"
        assert run.inputs("charge") == {"order_id": 7}
        assert run.inputs("reserve", compensation=True) == {"reservation": "r7"}

    def test_a_step_that_is_not_there(self, order: Scenario) -> None:
        text = "step 'shp': the saga has no such step; it has reserve, charge, ship"
        for wrong in (order.step, order.compensation, order.order):
            with pytest.raises(ValueError, match=text):
                wrong("shp")

    def test_a_scenario_is_not_changed(self, order: Scenario) -> None:
        order.step("charge").fails()
        order.context(order_id=8)
        order.expect_completed(payment=70)
