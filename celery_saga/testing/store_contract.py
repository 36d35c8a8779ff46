"""The contract that every store keeps, as a test suite.

A test module for a store derives a class and supplies the store::

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self):
            yield MyStore(...)
"""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal

from celery_saga.core.decide import decide
from celery_saga.core.decide.transitions import noted
from celery_saga.core.events import StepReleased
from celery_saga.core.execution import Claim, Direction, SagaExecution, SagaStatus, StepRef
from celery_saga.core.ports import Envelope, Refused, Store
from celery_saga.testing.builders import (
    at_once,
    claim,
    claim_of_the_past,
    create,
    found_by,
    granted,
    make_execution,
    save,
    succeed,
)
from celery_saga.testing.store_contract_expiry import ExpiryContract
from celery_saga.testing.store_contract_instances import TTL, InstanceContract


class StoreContract(InstanceContract, ExpiryContract):
    """The tests that each store must pass: derive from it, and supply the fixture ``store``."""

    def test_a_new_execution_comes_back_as_it_was_saved(self, store: Store) -> None:
        values = {
            "order": {"lines": [1, 2.5, None, True]},
            "at": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc),
            "sum": Decimal("1.10"),
            "raw": b"\x00\xff",
            "self": "any key",
            "": "even this",
        }
        execution = make_execution(store, **values)
        saved, created = store.create(execution, "token")
        assert created
        assert saved == replace(execution, revision=1)
        assert store.load(execution.saga_id) == saved

    def test_an_id_is_taken_once(self, store: Store) -> None:
        execution = make_execution(store, order=1)
        assert store.create(execution, "one")[1] is True
        found, created = store.create(replace(execution, values={"order": 2}), "two")
        assert created is False
        assert found.values == {"order": 1}

    def test_a_repeated_creation_is_still_the_first(self, store: Store) -> None:
        execution = make_execution(store)
        store.create(execution, "same")
        assert store.create(execution, "same")[1] is True

    def test_twenty_starts_at_once_create_one_saga(self, store: Store) -> None:
        execution = make_execution(store)
        answers = at_once(20, lambda n: store.create(execution, f"token-{n}")[1])
        assert sorted(answers) == [False] * 19 + [True]

    def test_what_is_not_there_is_none(self, store: Store) -> None:
        assert store.load("contract-nothing") is None
        assert store.delete("contract-nothing") is False

    def test_a_save_replaces_what_it_read(self, store: Store) -> None:
        first = create(store, order=1, dropped=True)
        after = replace(first, values={"order": 2, "new": [1]}, status=SagaStatus.PAUSED)
        saved = save(store, first, after)
        assert saved == replace(after, revision=2)
        assert store.load(first.saga_id) == saved

    def test_the_order_of_keys_is_kept(self, store: Store) -> None:
        names = [f"key{n * 37 % 101}" for n in range(101)]
        first = create(store, **dict.fromkeys(names))
        more = {**first.values, "zz": 1, "aa": 2, names[0]: "changed"}
        del more[names[1]]
        assert save(store, first, replace(first, values=more)) is not None
        found = store.load(first.saga_id)
        assert found is not None
        assert list(found.values) == [names[0], *names[2:], "zz", "aa"]

    def test_thousands_of_keys_are_dropped_at_once(self, store: Store) -> None:
        first = create(store, **{f"key{number}": number for number in range(9_000)})
        saved = save(store, first, replace(first, values={"kept": 1}, status=SagaStatus.PAUSED))
        assert saved is not None
        found = store.load(first.saga_id)
        assert found is not None
        assert (dict(found.values), found.revision) == ({"kept": 1}, 2)

    def test_a_save_of_an_old_revision_is_refused(self, store: Store) -> None:
        first = create(store)
        assert save(store, first, replace(first, values={"who": "first"})) is not None
        assert save(store, first, replace(first, values={"who": "second"})) is None
        found = store.load(first.saga_id)
        assert found is not None
        assert found.values == {"who": "first"}

    def test_a_repeated_save_answers_as_before(self, store: Store) -> None:
        first = create(store)
        after = replace(first, values={"n": 1})
        assert store.save(first, after, "same") == store.save(first, after, "same")
        assert store.save(first, after, "same") is not None

    def test_what_is_read_without_its_context_lacks_nothing_else(self, store: Store) -> None:
        first = granted(claim(store, create(store, order="large"), "one"))
        assert save(store, first, replace(first, values={"order": "large", "n": 1})) is not None
        found, whole = store.load(first.saga_id, context=False), store.load(first.saga_id)
        assert found is not None
        assert whole is not None
        assert replace(found, values=whole.values) == whole

    def test_a_repeated_save_answers_as_before_although_a_worker_claims(self, store: Store) -> None:
        """Its answer was lost, and the message that came with it was not."""
        first = create(store)
        after = replace(first, values={"n": 1})
        saved = store.save(first, after, "same")
        taken = granted(claim(store, first))
        assert store.save(first, after, "same") == saved
        assert store.load(first.saga_id) == taken
        assert save(store, taken, replace(taken, values={"n": 2})) is not None
        assert store.save(first, after, "same") is None

    def test_envelopes_for_another_server_are_left(self, store: Store) -> None:
        """A store on the broker's server carries messages; one that carries none leaves all."""
        batch = [Envelope("elsewhere://no-server", object())]
        execution = make_execution(store)
        first, created = store.create(execution, "token", batch)
        assert created
        saved = store.save(first, replace(first, values={"n": 1}), "next", batch)
        assert saved is not None
        assert store.load(first.saga_id) == saved
        store.deliver(batch)
        assert store.endpoint != "elsewhere://no-server"

    def test_where_it_writes_does_not_change(self, store: Store) -> None:
        endpoint = store.endpoint
        assert isinstance(endpoint, str)
        assert isinstance(store.shared, bool)
        create(store)
        assert store.endpoint == endpoint

    def test_of_twenty_saves_at_once_one_wins(self, store: Store) -> None:
        first = create(store)
        answers = at_once(20, lambda n: save(store, first, replace(first, values={"n": n})))
        assert sum(answer is not None for answer in answers) == 1

    def test_a_claim_is_granted_once(self, store: Store) -> None:
        first = create(store)
        taken = granted(claim(store, first, "one"))
        held = taken.steps[0].claim
        assert held is not None
        assert (held.instance, held.retries) == ("one", 0)
        assert abs(held.at - store.now()) < 60
        assert taken.revision == first.revision + 1
        assert store.load(first.saga_id) == taken
        refused = claim(store, first, "two")
        assert isinstance(refused, Refused)
        assert refused.owner == held

    def test_of_twenty_claims_at_once_one_is_granted(self, store: Store) -> None:
        first = create(store)
        answers = at_once(20, lambda n: claim(store, first, f"instance-{n}"))
        assert sum(isinstance(answer, SagaExecution) for answer in answers) == 1

    def test_ones_own_claim_is_confirmed(self, store: Store) -> None:
        first = create(store)
        ref = first.ref(0)
        assert ref is not None
        mine = Claim("token", "instance")
        assert store.claim(first.saga_id, ref, mine) == store.claim(first.saga_id, ref, mine)

    def test_attempts_and_history_come_back(self, store: Store) -> None:
        """Each save adds to them; a store need not read them to write them."""
        first = create(store)
        claimed = granted(claim(store, first))
        saved = succeed(store, claimed)
        for number, what in enumerate(("pause", "resume", "pause")):
            after = noted(saved, float(number), what, "ann")
            newer = save(store, saved, after)
            assert newer is not None
            saved = newer

        found = store.load(first.saga_id)

        assert found is not None
        assert [(note.at, note.what) for note in found.history] == [
            (0.0, "pause"),
            (1.0, "resume"),
            (2.0, "pause"),
        ]
        (attempt,) = found.steps[0].log
        assert (attempt.number, attempt.instance, attempt.outcome) == (1, "instance", "SUCCEEDED")

    def test_a_claim_keeps_its_enclosing_task(self, store: Store) -> None:
        first = create(store)
        ref = first.ref(0)
        assert ref is not None
        granted(store.claim(first.saga_id, ref, Claim("token", "instance", enclosing_task="outer")))
        loaded = store.load(first.saga_id)
        assert loaded is not None
        kept = loaded.steps[0].claim
        assert kept is not None
        assert (kept.token, kept.enclosing_task) == ("token", "outer")
        refused = store.claim(first.saga_id, ref, Claim("other", "instance"))
        assert isinstance(refused, Refused)
        assert refused.owner == kept

    def test_a_later_retry_takes_over_and_an_earlier_does_not(self, store: Store) -> None:
        first = create(store)
        granted(claim(store, first, "one", retries=1))
        assert isinstance(claim(store, first, "two", retries=0), Refused)
        taken = granted(claim(store, first, "three", retries=2))
        assert taken.steps[0].retries == 2
        assert store.claims_of("one") == []
        assert store.claims_of("three") == [(first.saga_id, first.ref(0))]
        assert store.heartbeat("three", 5.0, ()).claims == ((first.saga_id, first.ref(0)),)
        assert store.heartbeat("one", 5.0, ()).claims == ()

    def test_after_a_release_only_the_awaited_retry_is_let_in(self, store: Store) -> None:
        first = granted(claim(store, create(store)))
        held, ref = first.steps[0].claim, first.ref(0)
        assert held is not None
        assert ref is not None
        event = StepReleased(store.now(), ref, held.token, 1, store.now())
        released = save(store, first, decide(first, event).execution)
        assert released is not None
        assert store.claims_of("instance") == []
        assert isinstance(claim(store, released, "late", retries=0), Refused)
        assert granted(claim(store, released, "next", retries=1)).steps[0].retries == 1

    def test_a_stale_ref_is_refused(self, store: Store) -> None:
        first = create(store)
        for ref in (
            StepRef((0,), Direction.FORWARD, 2),
            StepRef((0,), Direction.COMPENSATION, 1),
            StepRef((1,), Direction.FORWARD, 1),
            StepRef((9,), Direction.FORWARD, 1),
        ):
            assert isinstance(store.claim(first.saga_id, ref, Claim("t", "instance")), Refused)
        unknown = store.claim(
            "contract-nothing", StepRef((0,), Direction.FORWARD, 1), Claim("t", "b")
        )
        assert isinstance(unknown, Refused)

    def test_a_claim_fences_off_older_saves(self, store: Store) -> None:
        first = create(store)
        granted(claim(store, first))
        assert save(store, first, replace(first, values={"n": 1})) is None

    def test_a_saga_runs_to_its_end(self, store: Store) -> None:
        execution = create(store, order=1)
        for index in range(3):
            execution = granted(claim(store, execution, "instance"))
            assert store.claims_of("instance") == [(execution.saga_id, execution.ref(index))]
            execution = succeed(store, execution, **{f"result{index}": index})
            assert store.claims_of("instance") == []
        assert execution.status is SagaStatus.COMPLETED
        assert store.load(execution.saga_id) == execution
        assert isinstance(claim_of_the_past(store, execution), Refused)

    def test_due_sagas_come_longest_overdue_first(self, store: Store) -> None:
        now = store.now()
        ids = []
        for offset in (-1.0, -3.0, -2.0, 60.0):
            first = create(store)
            assert save(store, first, replace(first, due_at=now + offset)) is not None
            ids.append(first.saga_id)
        due = [saga_id for saga_id in store.due(1000) if saga_id in ids]
        assert due == [ids[1], ids[2], ids[0]]
        assert len(store.due(2)) == 2

    def test_a_settled_saga_is_not_due(self, store: Store) -> None:
        first = create(store)
        past = save(store, first, replace(first, due_at=store.now() - 1))
        assert past is not None
        assert first.saga_id in store.due(1000)
        save(store, past, replace(past, status=SagaStatus.STUCK, due_at=None))
        assert first.saga_id not in store.due(1000)

    def test_a_settled_saga_whose_result_is_not_stored_is_due(self, store: Store) -> None:
        callbacks = {"callbacks": [{"task": "t", "kwargs": {"n": [1, None]}}], "priority": 3}
        new = replace(make_execution(store), wants_result=True, callbacks=callbacks)
        first, _ = store.create(new, "token")
        past = replace(first, result_pending=True, due_at=store.now() - 1)
        ended = save(store, first, replace(past, status=SagaStatus.COMPLETED))
        assert ended is not None
        assert store.load(first.saga_id) == ended
        assert (ended.callbacks, ended.wants_result) == (callbacks, True)
        assert first.saga_id in store.due(1000)
        published = replace(ended, result_pending=False, due_at=None, callbacks=None)
        published = save(store, ended, published) or published
        assert store.load(first.saga_id) == published
        assert first.saga_id not in store.due(1000)

    def test_sagas_are_found_by_status_and_name(self, store: Store) -> None:
        first = create(store)
        assert first.saga_id in found_by(store, SagaStatus.RUNNING, 1000)
        assert first.saga_id in found_by(store, SagaStatus.RUNNING, 1000, "contract")
        assert first.saga_id not in found_by(store, SagaStatus.RUNNING, 1000, "another")
        save(store, first, replace(first, status=SagaStatus.STUCK))
        assert first.saga_id not in found_by(store, SagaStatus.RUNNING, 1000)
        assert first.saga_id in found_by(store, SagaStatus.STUCK, 1000, "contract")

    def test_sagas_are_found_by_the_age_of_their_status(self, store: Store) -> None:
        first = create(store)
        save(store, first, replace(first, status=SagaStatus.STUCK))
        found = [
            first.saga_id in found_by(store, SagaStatus.STUCK, 1000, name, until)
            for name in (None, "contract")
            for until in (None, store.now() + 2, store.now() - 3600)
        ]
        assert found == [True, True, False] * 2

    def test_the_newest_in_a_status_is_found_first(self, store: Store) -> None:
        one, two = create(store), create(store)
        found = store.find(SagaStatus.RUNNING, 1000, "contract")
        times = [each.since for each in found]
        assert times == sorted(times, reverse=True)
        assert {one.saga_id, two.saga_id} <= {each.saga_id for each in found}
        assert abs(found[0].since - store.now()) < 60
        assert len(store.find(SagaStatus.RUNNING, 1, "contract")) == 1

    def test_sagas_are_counted(self, store: Store) -> None:
        before = store.count(SagaStatus.STUCK), store.count(SagaStatus.STUCK, "contract")
        first = create(store)
        save(store, first, replace(first, status=SagaStatus.STUCK))
        after = store.count(SagaStatus.STUCK), store.count(SagaStatus.STUCK, "contract")
        assert after == (before[0] + 1, before[1] + 1)
        assert store.count(SagaStatus.STUCK, "another") == 0

    def test_an_ended_saga_can_be_created(self, store: Store) -> None:
        """One that comes from another store."""
        ended = replace(make_execution(store), status=SagaStatus.COMPLETED, due_at=None)
        saved, created = store.create(ended, "token")
        assert created
        assert store.load(ended.saga_id) == saved
        assert ended.saga_id in found_by(store, SagaStatus.COMPLETED, 1000)
        assert ended.saga_id not in store.due(1000)

    def test_waiting_ends_with_the_saga(self, store: Store) -> None:
        first = create(store)
        ended = replace(first, status=SagaStatus.COMPLETED, due_at=None)
        timer = threading.Timer(0.05, lambda: save(store, first, ended))
        timer.start()
        found = store.wait(first.saga_id, 30.0)
        timer.join()
        assert found is not None
        assert found.status is SagaStatus.COMPLETED

    def test_waiting_ends_with_its_time(self, store: Store) -> None:
        first = create(store)
        assert store.wait(first.saga_id, 0.05) == first
        assert store.wait("contract-nothing", 0.05) is None

    def test_times_are_the_stores(self, store: Store) -> None:
        first, second = store.now(), store.heartbeat("clock", TTL, ()).at
        assert first <= second + 0.1
        assert second <= store.now() + 0.1
