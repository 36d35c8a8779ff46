"""How a Django project tests its sagas: eagerly, with Django's own test case. Not for pytest."""

import re
from contextlib import suppress

from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase

from celery_saga.contrib.barrier.django.models import BarrierResult
from tests.django.orders.models import Order
from tests.django.orders.sagas import place_order, sell


def start(amount=10):
    order = Order.objects.create(amount=amount)
    place_order.delay_on_commit(order_id=order.pk, amount=amount)
    return order


def start_on(name, using):
    order = Order.objects.create(amount=10)
    context = {"order_id": order.pk, "amount": order.amount}
    if name == "delay_on_commit":
        place_order.delay_on_commit(using=using, **context)
    else:
        place_order.apply_async_on_commit(context, using=using)
    return order


class CapturedTest(TestCase):
    """Django's test case never commits, and can run what waits for a commit."""

    def test_a_saga_waits_for_the_commit(self):
        with self.captureOnCommitCallbacks() as callbacks:
            order = start()
        assert len(callbacks) == 1
        order.refresh_from_db()
        assert order.state == "new"

    def test_and_runs_then(self):
        with self.captureOnCommitCallbacks(execute=True):
            order, refused = start(), start(amount=200)
        order.refresh_from_db()
        assert order.state == "new, reserved, charged, done"
        refused.refresh_from_db()
        assert refused.state == "new, reserved, released"
        assert connection.is_usable()


class CommittedTest(TransactionTestCase):
    """With real commits."""

    def test_commit_and_rollback(self):
        with transaction.atomic():
            order = start()
            assert Order.objects.get(pk=order.pk).state == "new"
        order.refresh_from_db()
        assert order.state == "new, reserved, charged, done"

        with suppress(ZeroDivisionError), transaction.atomic():
            lost = start()
            raise ZeroDivisionError
        assert not Order.objects.filter(pk=lost.pk).exists()
        assert connection.is_usable()


class SecondDatabaseTest(TransactionTestCase):
    """A saga that waits for the commit of another database than the default one."""

    databases = ("default", "archive")

    def test_it_waits_for_that_ones_commit(self):
        for name in ("delay_on_commit", "apply_async_on_commit"):
            with transaction.atomic(using="archive"):
                Order.objects.using("archive").create(amount=10)
                with transaction.atomic():
                    order = start_on(name, "archive")
                order.refresh_from_db()
                assert order.state == "new", order.state
            order.refresh_from_db()
            assert order.state == "new, reserved, charged, done"

    def test_and_for_no_other_ones(self):
        with transaction.atomic():
            order = start_on("delay_on_commit", "archive")
            assert Order.objects.get(pk=order.pk).state == "new, reserved, charged, done"

    def test_rolled_back_it_does_not_start(self):
        with suppress(ZeroDivisionError), transaction.atomic(using="archive"):
            order = start_on("delay_on_commit", "archive")
            raise ZeroDivisionError
        order.refresh_from_db()
        assert order.state == "new"

    def test_a_test_case_can_run_what_waits_for_it(self):
        with transaction.atomic(using="archive"):
            with TestCase.captureOnCommitCallbacks(using="archive", execute=True) as callbacks:
                order = start_on("delay_on_commit", "archive")
            assert len(callbacks) == 1
            order.refresh_from_db()
            assert order.state == "new, reserved, charged, done"

    def test_a_database_that_is_none(self):
        order = Order.objects.create(amount=10)
        try:
            place_order.delay_on_commit(order_id=order.pk, amount=10, using="card")
        except ValueError as error:
            text = str(error)
        assert "using: expected one of ['archive', 'default']" in text
        assert "found 'card'" in text
        assert "apply_async_on_commit({'using': ...})" in text
        order.refresh_from_db()
        assert order.state == "new"


class BarrierTest(TransactionTestCase):
    """A step that is tried again after its commit, with the app's own migration."""

    def test_its_effect_is_there_once_and_its_result_is_the_first_ones(self):
        order = Order.objects.create(amount=10)
        result = sell.delay(order_id=order.pk, amount=10)
        assert result.status == "COMPLETED"
        order.refresh_from_db()
        (first, second) = re.findall(r"asked \((\w+)\)", order.state)
        assert first == second == result.context.receipt[:4]
        assert order.state.count("paid") == order.state.count("packed") == 1

    def test_an_error_in_the_block_leaves_nothing(self):
        order = Order.objects.create(amount=200)
        assert sell.delay(order_id=order.pk, amount=200).status == "COMPENSATED"
        order.refresh_from_db()
        assert order.state.endswith("paid back")
        keys = set(BarrierResult.objects.values_list("step_key", flat=True))
        assert {key.partition("/")[2].rpartition(".")[2] for key in keys} == {"pay/f/0", "pay/c/0"}
