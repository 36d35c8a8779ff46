"""The part of the store contract that is about worker boots."""

from __future__ import annotations

import uuid

from celery_saga.core.ports import Store
from celery_saga.testing.builders import claim, create, granted, until

#: Seconds that a boot of these tests stays alive without a beat.
TTL = 0.3


class BootContract:
    """What stores keep of worker boots; a part of the store contract."""

    def test_a_boot_lives_as_long_as_it_beats(self, store: Store) -> None:
        one, two = f"one-{uuid.uuid4()}", f"two-{uuid.uuid4()}"
        store.beat(one, TTL, ["a~f0~1"])
        assert one in store.alive()
        until(lambda: one in store.beat(two, TTL, ()).dead)
        assert one not in store.alive()
        assert two in store.alive()
        store.forget(one)
        assert one not in store.beat(two, TTL, ()).dead

    def test_a_boot_that_ended_takes_leave(self, store: Store) -> None:
        one, two = f"one-{uuid.uuid4()}", f"two-{uuid.uuid4()}"
        store.beat(one, 60.0, ["a~f0~1"])
        store.forget(one)
        assert one not in store.alive()
        assert one not in store.holders().values()
        assert one not in store.beat(two, TTL, ()).dead

    def test_a_claim_of_a_boot_that_was_forgotten_is_judged_too(self, store: Store) -> None:
        one, two = f"one-{uuid.uuid4()}", f"two-{uuid.uuid4()}"
        store.beat(one, TTL, ())
        store.forget(one)
        first = granted(claim(store, create(store), one))
        until(lambda: one in store.beat(two, TTL, ()).dead)
        store.forget(one)
        assert store.claims_of(one) == [(first.saga_id, first.ref(0))]
        assert one in store.beat(two, TTL, ()).dead

    def test_claims_that_are_dealt_with_are_no_longer_owed(self, store: Store) -> None:
        one, two = f"one-{uuid.uuid4()}", f"two-{uuid.uuid4()}"
        store.beat(one, TTL, ())
        first = granted(claim(store, create(store), one))
        until(lambda: one in store.beat(two, TTL, ()).dead)
        store.delete(first.saga_id)
        store.forget(one, store.claims_of(one))
        assert one not in store.beat(two, TTL, ()).dead

    def test_one_boot_sweeps(self, store: Store) -> None:
        one, two = f"one-{uuid.uuid4()}", f"two-{uuid.uuid4()}"
        until(lambda: store.beat(one, TTL, ()).sweeper)
        assert store.beat(two, TTL, ()).sweeper is False
        assert store.beat(one, TTL, ()).sweeper is True
        until(lambda: store.beat(two, TTL, ()).sweeper)

    def test_what_boots_hold_is_known(self, store: Store) -> None:
        boot = f"boot-{uuid.uuid4()}"
        store.beat(boot, TTL, ["a~f0~1", "b~f0~1"])
        assert {"a~f0~1": boot, "b~f0~1": boot}.items() <= store.holders().items()
        store.beat(boot, TTL, [])
        assert boot not in store.holders().values()

    def test_apps_that_were_here_are_known(self, store: Store) -> None:
        one, two = f"one {uuid.uuid4()}", f"two {uuid.uuid4()}"
        assert one not in store.meet("")
        assert one in store.meet(one)
        assert {one, two} <= store.meet(two)
        assert {one, two} <= store.meet("")
        assert "" not in store.meet("")
