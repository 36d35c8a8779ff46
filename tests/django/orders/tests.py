"""How a Django project tests its sagas: eagerly, with Django's own test case. Not for pytest."""

from contextlib import suppress

from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase

from tests.django.orders.models import Order
from tests.django.orders.sagas import place_order


def start(amount=10):
    order = Order.objects.create(amount=amount)
    place_order.delay_on_commit(order_id=order.pk, amount=amount)
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
