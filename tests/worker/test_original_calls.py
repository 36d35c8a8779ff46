"""Calls of the Minos framework, on real workers: ``await manager.run(...)`` and what it gives."""

from __future__ import annotations

import asyncio
import importlib
import json
import signal
import sys
import threading
import uuid

import pytest
import redis
from celery.exceptions import TimeoutError

from celery_saga import (
    DefinitionError,
    EmptySagaException,
    MissingInput,
    Saga,
    SagaAlreadyExists,
    SagaCompensated,
    SagaContext,
    SagaExecution,
    SagaFailedExecutionException,
    SagaFailedExecutionStepException,
    SagaManager,
    SagaNotCommittedException,
    SagaNotFound,
    SagaResponse,
    SagaRollbackExecutionException,
    SagaStatus,
    SagaStepExecutionException,
    SagaStuck,
)
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, late

pytestmark = pytest.mark.worker

ORDER = {"order_id": 7, "items": [{"sku": "A", "quantity": 2, "price": 24.99}], "total": 49.98}


@pytest.fixture
def original(flows):
    from tests.worker.apps import original

    return original


@pytest.fixture
def manager(flows):
    return flows.sagas


def run(manager, *args, **options):
    return asyncio.run(manager.run(*args, **options))


def stored(site):
    return {key.decode() for key in site.client.scan_iter("saga:execution:*")}


class TestRun:
    def test_it_gives_the_execution_when_the_saga_is_over(self, manager, original):
        execution = run(manager, definition=original.place_order, context=SagaContext(**ORDER))

        assert isinstance(execution, SagaExecution)
        assert execution.status is SagaStatus.Finished
        assert execution.context.payment_id == "p-1"
        assert execution.context.reservation_id == "r-7"
        assert execution.uuid == uuid.UUID(execution.saga_id)
        assert [step.name for step in execution.steps] == ["validate_order", "reserve", "pay"]

    def test_or_its_id(self, manager, original):
        found = run(manager, original.place_order, ORDER, return_execution=False)

        assert type(found) is uuid.UUID
        execution = asyncio.run(manager.repository.load(found))
        assert (execution.uuid, execution.status) == (found, SagaStatus.COMPLETED)
        named = run(manager, original.place_order, ORDER, return_execution=False, saga_id="o.7")
        assert named == "o.7"
        asyncio.run(manager.repository.delete(named))

    @pytest.mark.parametrize("context", [{}, None, SagaContext()], ids=repr)
    def test_an_empty_context(self, manager, original, context):
        assert run(manager, original.nothing_but_a_note, context).context == {}

    def test_a_finished_execution_is_kept(self, manager, original):
        """The original forgets what it completed."""
        first = run(manager, original.place_order, ORDER)
        assert asyncio.run(manager.repository.load(first.uuid)) == first

    def test_floats_in_nested_data_stay_as_they_are(self, manager, original):
        """The original makes 25 and 49 of these prices."""
        order = {"lines": [{"qty": 2, "price": 25.00}, {"qty": 1, "price": 49.99}]}
        back = run(manager, original.nothing_but_a_note, SagaContext(order=order)).context.order
        assert back == order
        assert [type(line["price"]) for line in back["lines"]] == [float, float]
        assert [type(line["qty"]) for line in back["lines"]] == [int, int]

    def test_options_of_celery_go_with_it(self, manager, original):
        options = {"saga_id": "order-1", "deadline": 3600, "priority": 3}
        first = run(manager, original.place_order, ORDER, **options)
        assert (first.saga_id, first.uuid) == ("order-1", "order-1")
        again = run(manager, original.place_order, ORDER, saga_id="order-1")
        assert again == first
        with pytest.raises(SagaAlreadyExists):
            run(manager, original.place_order, ORDER, saga_id="order-1", on_duplicate="raise")
        asyncio.run(manager.repository.delete("order-1"))


class TestFailures:
    def test_the_steps_exception_comes_with_the_error(self, manager, original):
        with pytest.raises(SagaFailedExecutionStepException) as caught:
            run(manager, original.place_order, {**ORDER, "total": 0})
        error = caught.value
        assert type(error.exception) is ValueError
        assert str(error.exception) == "the order has no total"
        assert error.__cause__ is error.exception
        assert error.step == "validate_order"
        assert type(error) is SagaCompensated
        for base in (SagaFailedExecutionException, SagaStepExecutionException):
            assert isinstance(error, base)

    def test_exceptions_of_the_users_own(self, manager, original):
        items = [{"sku": "A", "quantity": 9}]
        with pytest.raises(SagaFailedExecutionException) as caught:
            run(manager, original.place_order, {**ORDER, "items": items})
        assert isinstance(caught.value.exception, original.OutOfStock)
        assert str(caught.value.exception) == "9 of A wanted"

    def test_get_raises_the_same(self, manager, original):
        shells = {**ORDER, "payment_method": "shells"}
        with pytest.raises(SagaCompensated) as caught:
            original.place_order.delay(**shells).get(timeout=30)
        assert caught.value.exception.args == ("shells",)
        assert type(caught.value.exception) is KeyError

    def test_or_the_errored_execution_comes_back(self, manager, original):
        context = {**ORDER, "payment_method": "shells"}
        execution = run(manager, original.place_order, context, raise_on_error=False)

        assert execution.status is SagaStatus.COMPENSATED
        assert execution.status == SagaStatus.Errored
        assert execution.status.Errored
        # What compensations change is in the context, what the failing step changed is not.
        assert execution.context.released is True
        assert "payment_id" not in execution.context

    def test_a_compensation_that_fails(self, manager, original):
        """The original is left Running then, notifies no caller, and drops the first error."""
        context = {**ORDER, "payment_method": "shells", "warehouse": "closed"}
        with pytest.raises(SagaRollbackExecutionException) as caught:
            run(manager, original.place_order, context, saga_id="closed")
        error = caught.value
        assert type(error) is SagaStuck
        assert type(error.exception) is ConnectionError
        assert type(error.exception.__context__) is KeyError
        found = run(manager, original.place_order, context, saga_id="closed", raise_on_error=False)
        assert (found.status, found.status.Errored) == (SagaStatus.STUCK, True)
        asyncio.run(manager.repository.delete("closed"))

    def test_a_result_that_is_none_compensates_the_saga(self, manager, original):
        """The original takes it for the context, and crashes without compensating anything.

        The step itself has taken effect and has no compensation: that is an operator's to settle.
        """
        with pytest.raises(SagaStuck, match=r"'returns_a_number'.* found int") as caught:
            run(manager, original.ends_badly, ORDER)
        assert isinstance(caught.value.exception, TypeError)
        execution = asyncio.run(manager.repository.load(caught.value.saga_id))
        assert execution.context.released is True


class TestTheLoopContinues:
    def test_while_it_waits(self, manager, original, functional_site):
        journal = functional_site.journal

        async def main():
            saga_id = str(uuid.uuid4())
            run = asyncio.create_task(
                manager.run(original.place_order, {**ORDER, "hold": True}, saga_id=saga_id)
            )
            turns = 0
            while len(journal.said(saga_id, "began")) < 3:
                await asyncio.sleep(0.01)
                turns += 1
            assert not run.done()
            journal.open(saga_id, "pay")
            execution = await run
            return turns, execution

        turns, execution = asyncio.run(main())
        assert turns > 0
        assert execution.status is SagaStatus.COMPLETED

    def test_of_more_runs_than_there_are_threads(self, manager, original, functional_site):
        """Forty wait for a gate, and others are started and end meanwhile."""
        journal, ids = functional_site.journal, [f"many-{uuid.uuid4().hex}" for _ in range(40)]
        # As many as there are refs hold at the gate, the others wait behind them.

        async def main():
            held = [
                asyncio.create_task(
                    manager.run(original.place_order, {**ORDER, "hold": True}, saga_id=one)
                )
                for one in ids
            ]
            while any(not manager_has(one) for one in ids):
                await asyncio.sleep(0.01)
            found = await manager.run(
                original.nothing_but_a_note, {}, pause_on_disk=True, return_execution=False
            )
            for one in ids:
                journal.open(one, "pay")
            ends = await asyncio.gather(*held)
            return found, ends

        def manager_has(saga_id):
            return functional_site.client.exists(f"saga:execution:{saga_id}")

        found, ends = asyncio.run(main())
        assert [one.saga_id for one in ends] == ids
        assert {one.status for one in ends} == {SagaStatus.COMPLETED}
        assert manager.get(found).get(timeout=30) == {}
        waiting = [t for t in threading.enumerate() if t.name.startswith("celery-saga-wait")]
        assert 0 < len(waiting) <= 32

    def test_when_its_coroutine_is_cancelled_the_saga_runs_on(
        self, manager, original, functional_site
    ):
        saga_id, journal = str(uuid.uuid4()), functional_site.journal

        async def main():
            run = asyncio.create_task(
                manager.run(original.place_order, {**ORDER, "hold": True}, saga_id=saga_id)
            )
            while len(journal.said(saga_id, "began")) < 3:
                await asyncio.sleep(0.01)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

        asyncio.run(main())  # ends although the saga does not
        assert manager.get(saga_id).status is SagaStatus.RUNNING
        journal.open(saga_id, "pay")
        assert manager.get(saga_id).get(timeout=30).payment_id == "p-1"

    def test_a_timeout_is_the_callers(self, manager, original, functional_site):
        saga_id, journal = str(uuid.uuid4()), functional_site.journal
        context = {**ORDER, "hold": True}
        with pytest.raises(TimeoutError, match=r"not settled after 0\.1 seconds"):
            run(manager, original.place_order, context, saga_id=saga_id, timeout=0.1)
        journal.open(saga_id, "pay")
        assert run(manager, original.place_order, context, saga_id=saga_id, timeout=30)

    def test_several_loops_in_several_threads(self, manager, original):
        found = []

        def loop():
            found.append(run(manager, original.place_order, ORDER).status)

        threads = [threading.Thread(target=loop) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == [SagaStatus.COMPLETED] * 6


class TestPauseOnDisk:
    def test_it_comes_back_at_once(self, manager, original, functional_site):
        context = SagaContext(process_id="p-123", data={"key": "value"}, **ORDER, hold=True)
        execution = run(manager, original.place_order, context, pause_on_disk=True)

        assert execution.status is SagaStatus.Paused
        found = asyncio.run(manager.repository.load(execution.uuid))
        assert found.status is SagaStatus.RUNNING
        assert (found.context.process_id, found.context.data) == ("p-123", {"key": "value"})
        functional_site.journal.open(execution.saga_id, "pay")
        assert manager.get(execution.uuid).get(timeout=30).payment_id == "p-1"

    def test_its_id_is_enough_to_come_back(self, manager, original):
        found = run(
            manager, original.place_order, ORDER, pause_on_disk=True, return_execution=False
        )
        recovered = wait_for(lambda: ended(manager, found), timeout=30)
        assert recovered.context.order_id == 7

    def test_an_error_is_in_the_execution(self, manager, original):
        bad = {**ORDER, "total": 0}
        execution = run(manager, original.place_order, bad, pause_on_disk=True)
        with pytest.raises(SagaCompensated):
            manager.get(execution.uuid).get(timeout=30)

    def test_a_caller_that_does_not_wait_gets_no_error_of_an_early_end(self, manager, original):
        """However quick the worker was: whether it raises does not depend on luck."""
        bad = {**ORDER, "total": 0}
        failed = run(manager, original.place_order, bad, raise_on_error=False)

        again = run(manager, original.place_order, bad, saga_id=failed.saga_id, pause_on_disk=True)
        assert again.status is SagaStatus.COMPENSATED


def ended(manager, found):
    execution = asyncio.run(manager.repository.load(found))
    return execution if execution.settled else None


class TestRefused:
    """Before anything is started, with what to do instead."""

    @pytest.fixture(autouse=True)
    def _nothing(self, functional_site):
        before = stored(functional_site)
        yield
        assert stored(functional_site) == before

    def test_neither_definition_nor_response(self, manager):
        with pytest.raises(ValueError, match="expected definition= or response=, found neither"):
            run(manager)
        with pytest.raises(ValueError, match="found neither"):
            run(manager, context=SagaContext(x=1))

    def test_what_is_not_a_response(self, manager, original):
        for definition in (None, original.place_order):
            with pytest.raises(TypeError, match="response: expected a SagaResponse, found a dict"):
                run(manager, definition, response={"content": 7})

    @pytest.mark.parametrize("about", [{}, {"uuid": uuid.uuid4()}, {"token": "t"}])
    def test_a_response_without_the_id_of_its_saga_or_its_token(self, manager, about):
        with pytest.raises(ValueError, match="the id of its saga and the token of its request"):
            run(manager, response=SagaResponse(7, **about))

    def test_a_response_to_an_unknown_saga(self, manager):
        with pytest.raises(SagaNotFound):
            run(manager, response=SagaResponse(7, uuid=uuid.uuid4(), token="t"))

    @pytest.mark.parametrize(
        "definition", ["original-note", 7, [late]], ids=["a name", "a number", "a list"]
    )
    def test_what_is_not_a_saga(self, manager, definition):
        with pytest.raises(TypeError, match="definition: expected a Saga, found a"):
            run(manager, definition)

    def test_a_second_phase(self, manager, original):
        with pytest.raises(ValueError, match="autocommit: expected True"):
            run(manager, original.place_order, ORDER, autocommit=False)

    def test_unknown_options(self, manager, original):
        with pytest.raises(TypeError, match="pause_on_disc"):
            run(manager, original.place_order, ORDER, pause_on_disc=True)

    def test_a_context_that_is_not_a_mapping(self, manager, original):
        with pytest.raises(TypeError, match="context: expected a mapping"):
            run(manager, original.place_order, [1])

    def test_a_saga_without_steps(self, manager):
        for saga in (Saga(), Saga().commit()):
            with pytest.raises(EmptySagaException):
                run(manager, saga)

    def test_a_saga_that_is_not_committed(self, manager, original):
        saga = Saga()
        saga.local_step().on_execute(original.express)
        with pytest.raises(SagaNotCommittedException):
            run(manager, saga)

    def test_a_missing_input(self, manager):
        saga = Saga("needy")
        saga.local_step("some.task", inputs=["x"])
        with pytest.raises(MissingInput):
            run(manager, saga.commit())

    def test_a_function_that_no_worker_could_find(self, manager, original):
        saga = Saga()
        saga.local_step().on_execute(original.unknown_to_workers)
        with pytest.raises(DefinitionError, match=r"could not find .*unknown_to_workers"):
            run(manager, saga.commit(), ORDER)

    def test_a_lambda_of_a_saga_without_a_name(self, manager):
        saga = Saga()
        saga.local_step().on_execute(lambda context: None)
        with pytest.raises(DefinitionError, match="saga without a name"):
            run(manager, saga.commit())

    def test_a_lambda_of_a_saga_made_at_run_time(self, manager):
        saga = Saga("made-now")
        saga.local_step().on_execute(lambda context: None)
        with pytest.raises(DefinitionError, match="could not find"):
            run(manager, saga.commit())


def test_defaults_of_what_is_refused_are_accepted(manager, original):
    options = {"user": None, "response": None, "autocommit": True}
    assert run(manager, original.nothing_but_a_note, **options).status is SagaStatus.COMPLETED


class TestSagasOfThePage:
    @pytest.mark.parametrize(
        ("tier", "total", "steps", "sent_by"),
        [
            ("premium", 10, ["express", "snapshot"], "express"),
            ("basic", 200, ["standard", "snapshot"], "post"),
            ("basic", 10, ["snapshot"], None),
        ],
    )
    def test_built_from_the_data(self, manager, original, tier, total, steps, sent_by):
        context = SagaContext(customer={"tier": tier}, order={"total": total})
        definition = original.dynamic_saga(context)
        execution = run(manager, definition=definition, context=context)

        assert [step.name for step in execution.steps] == steps
        assert execution.context.get("sent_by") == sent_by
        shot = json.loads(execution.context.snapshot)
        assert shot["processing"] == execution.context.processing == original.flow_of(context)

    def test_a_context_in_a_step(self, manager, original, journal):
        context = SagaContext(order_id=12345, customer_id="cust_456", discount=5, note="n")
        context.temporary = [1]
        context.order = {"lines": [{"sku": "A", "qty": 2, "price": 25.00}]}
        execution = run(manager, original.basic, context)

        found = execution.context
        assert (found.status, found.priority, found.payment_method) == (
            "paid",
            "high",
            "credit_card",
        )
        assert (found.shipping, found.taken, found.missing, found.has) == (
            0.0,
            [1],
            "default",
            False,
        )
        assert "discount" not in found
        assert "note" not in found
        assert found.order == {"lines": [{"sku": "A", "qty": 3, "price": 25.00}]}
        assert found.size == len(found.pairs) - 1
        (began,) = journal.of(execution.saga_id)
        assert (began["customer"], began["order"]) == ("cust_456", 12345)
        assert began["keys"] == [
            "order_id",
            "customer_id",
            "discount",
            "note",
            "temporary",
            "order",
        ]

    def test_a_context_is_saved_with_the_execution(self, manager, original):
        context = SagaContext(process_id="proc_123", data={"key": "value"}, step_count=0)
        options = {"pause_on_disk": True, "return_execution": False}
        found = run(manager, definition=original.nothing_but_a_note, context=context, **options)
        execution = asyncio.run(manager.repository.load(found))
        recovered = execution.context
        assert (recovered.process_id, recovered.step_count) == ("proc_123", 0)
        assert recovered.data == {"key": "value"}
        manager.get(found).get(timeout=30)

    def test_with_validation_and_lambdas(self, manager, original, functional_site):
        context = original.OrderContexts.create({"id": "o-1", "items": ORDER["items"]})
        context = original.OrderContexts.with_payment({"method": "card", "token": "t"}, context)
        execution = run(manager, original.monitored, context)

        assert execution.context.validated_at
        assert execution.context.total == 49.98
        (logged,) = functional_site.journal.said(execution.saga_id, "logged")
        assert logged["step_name"] == "start"
        with pytest.raises(SagaCompensated, match="field 'items' must be"):
            run(manager, original.monitored, {"order_id": 1, "items": "A"})


class TestInsideATask:
    def test_waiting_is_refused_and_starting_is_not(self, manager, original):
        with pytest.raises(SagaCompensated, match=r"Never call result\.get") as caught:
            run(manager, original.nested, {})
        assert caught.value.step == "runs_another"


class TestWhichApp:
    def test_a_saga_of_no_app_runs_on_the_managers(self, site, original):
        """Its steps are functions or shared tasks, and another app is the current one."""
        shared = Saga("shared", steps=[late]).commit()
        for number, saga in enumerate((original.place_order, shared), start=1):
            run(SagaManager(site.app), saga, ORDER, pause_on_disk=True)
            assert site.queued() == number
        site.client.flushdb()


class TestStorage:
    @pytest.mark.parametrize(("kind", "prefix"), [("url", "saga:"), ("store", "mine:")])
    def test_worker_and_client_keep_sagas_in_the_given_storage(
        self, site, valkey, monkeypatch, kind, prefix
    ):
        url = valkey.url(14)
        env = {"SAGA_TEST_STORAGE": kind, "SAGA_TEST_STORE_URL": url}
        worker = site.worker(app="tests.worker.apps.stored", env=env)
        for name, value in {**env, "SAGA_TEST_URL": site.url}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delitem(sys.modules, "tests.worker.apps.stored", raising=False)
        client = importlib.import_module("tests.worker.apps.stored")
        # Celery's settings are a module, which may have been imported for another site.
        client.app.conf.update(broker_url=site.url, result_backend=site.url)
        saga = Saga("kept", app=client.app)
        saga.local_step(late, name="a").on_failure(compensation)
        saga.local_step(late, name="b")
        saga.commit()

        with redis.Redis.from_url(url) as there:
            there.flushdb()  # other files leave ended sagas in this database
            try:
                assert run(client.sagas, saga, {"x": 1}).context == {"x": 1}
                result = saga.delay(hold=["b/f"])
                line = site.journal.wait(result.id, "began", 2)
                site.kill_child(line)  # the worker's heartbeat finds it out in the same store
                site.journal.wait(result.id, "began", 3)
                site.journal.open(result.id, "b/f", 2)
                assert result.get(timeout=30)
                assert len(list(there.scan_iter(f"{prefix}execution:*"))) == 2
                assert list(site.client.scan_iter("*execution:*")) == []
                worker.signal(signal.SIGTERM)  # a warm shutdown takes leave of the store
                wait_for(lambda: not worker.process.alive)
                assert worker.process.returncode == 0
                assert "saga heartbeat failed" not in worker.text()
                assert result.status is SagaStatus.COMPLETED
            finally:
                there.flushdb()
