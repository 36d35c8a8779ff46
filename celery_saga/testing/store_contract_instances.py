"""The part of the store contract that is about worker instances."""

from __future__ import annotations

import uuid

from celery_saga.core.ports import Reserved, Store
from celery_saga.testing.builders import claim, create, granted, until

#: Seconds that an instance of these tests stays alive without a heartbeat.
TTL = 0.3


class InstanceContract:
    """What stores keep of worker instances; a part of the store contract."""

    def test_an_instance_lives_as_long_as_it_sends_heartbeats(self, store: Store) -> None:
        one, two = f"one-{uuid.uuid4()}", f"two-{uuid.uuid4()}"

        def comes_alive(instance: str) -> bool:
            store.heartbeat(instance, TTL, [Reserved("a~f0~1")] if instance == one else ())
            return instance in store.alive()

        until(lambda: comes_alive(one))
        until(lambda: one in store.heartbeat(two, TTL, ()).expired)
        assert one not in store.alive()
        until(lambda: comes_alive(two))
        store.deregister(one)
        assert one not in store.heartbeat(two, TTL, ()).expired

    def test_an_instance_that_ended_is_deregistered(self, store: Store) -> None:
        one, two = f"one-{uuid.uuid4()}", f"two-{uuid.uuid4()}"
        store.heartbeat(one, 60.0, [Reserved("a~f0~1")])
        store.deregister(one)
        assert one not in store.alive()
        assert one not in store.reserved_by()
        assert one not in store.heartbeat(two, TTL, ()).expired

    def test_a_claim_of_a_deregistered_instance_is_reclaimed_too(self, store: Store) -> None:
        one, two = f"one-{uuid.uuid4()}", f"two-{uuid.uuid4()}"
        store.heartbeat(one, TTL, ())
        store.deregister(one)
        first = granted(claim(store, create(store), one))
        until(lambda: one in store.heartbeat(two, TTL, ()).expired)
        store.deregister(one)
        assert store.claims_of(one) == [(first.saga_id, first.ref(0))]
        assert one in store.heartbeat(two, TTL, ()).expired

    def test_claims_that_were_reclaimed_are_no_longer_held(self, store: Store) -> None:
        one, two = f"one-{uuid.uuid4()}", f"two-{uuid.uuid4()}"
        store.heartbeat(one, TTL, ())
        first = granted(claim(store, create(store), one))
        until(lambda: one in store.heartbeat(two, TTL, ()).expired)
        store.delete(first.saga_id)
        store.deregister(one, store.claims_of(one))
        assert one not in store.heartbeat(two, TTL, ()).expired

    def test_one_instance_sweeps(self, store: Store) -> None:
        one, two = f"one-{uuid.uuid4()}", f"two-{uuid.uuid4()}"
        until(lambda: store.heartbeat(one, TTL, ()).sweeper)
        assert store.heartbeat(two, TTL, ()).sweeper is False
        assert store.heartbeat(one, TTL, ()).sweeper is True
        until(lambda: store.heartbeat(two, TTL, ()).sweeper)

    def test_what_instances_have_reserved_is_known(self, store: Store) -> None:
        instance = f"instance-{uuid.uuid4()}"
        reserved = {Reserved("a~f0~1"), Reserved("b~f0~1", deferred=True)}
        store.heartbeat(instance, TTL, reserved)
        assert store.reserved_by()[instance] == reserved
        store.heartbeat(instance, TTL, [])
        assert instance not in store.reserved_by()

    def test_apps_that_were_here_are_known(self, store: Store) -> None:
        one, two = f"one {uuid.uuid4()}", f"two {uuid.uuid4()}"
        assert one not in store.register_app("")
        assert one in store.register_app(one)
        assert {one, two} <= store.register_app(two)
        assert {one, two} <= store.register_app("")
        assert "" not in store.register_app("")
