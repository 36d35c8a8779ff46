"""The part of the store contract about deleted sagas, and ids that are used again."""

from __future__ import annotations

import uuid
from dataclasses import replace

from celery_saga.core.decide import decide
from celery_saga.core.events import Started
from celery_saga.core.execution import Claim, SagaExecution, SagaStatus
from celery_saga.core.plan import Parallel, Plan
from celery_saga.core.ports import Refused, Store
from celery_saga.testing.builders import (
    at_once,
    claim,
    create,
    found_by,
    granted,
    make_execution,
    make_plan,
    save,
)


def _twice(store: Store) -> tuple[SagaExecution, SagaExecution]:
    """Two sagas of one id; the first one was claimed, and is deleted."""
    new = replace(make_execution(store), run_id="first")
    first = granted(claim(store, store.create(new, "one")[0], "old"))
    assert store.delete(new.saga_id)
    second, created = store.create(replace(new, run_id="second"), "two")
    assert created
    return first, second


class ExpiryContract:
    """What stores keep of deleted sagas; a part of the store contract."""

    def test_a_deleted_saga_is_not_found(self, store: Store) -> None:
        first = create(store)
        assert store.delete(first.saga_id) is True
        assert store.load(first.saga_id) is None
        assert first.saga_id not in found_by(store, SagaStatus.RUNNING, 1000)
        assert first.saga_id not in store.due(1000)
        assert save(store, first, replace(first, values={"n": 1})) is None

    def test_a_deleted_saga_holds_no_claim(self, store: Store) -> None:
        first = granted(claim(store, create(store), "holder"))
        assert store.delete(first.saga_id) is True
        assert store.claims_of("holder") == []
        assert store.heartbeat("holder", 5.0, ()).claims == ()

    def test_a_deleted_saga_holds_no_claim_of_a_branch(self, store: Store) -> None:
        plan, at = Plan("contract", (Parallel("both", make_plan(2).steps),)), store.now()
        new = SagaExecution.create(f"contract-{uuid.uuid4()}", plan, {}, at=at)
        first, _ = store.create(decide(new, Started(at)).execution, "one")
        ref = first.active[1]
        granted(store.claim(first.saga_id, ref, Claim("token", "holder")))
        assert store.claims_of("holder") == [(first.saga_id, ref)]
        assert store.delete(first.saga_id) is True
        assert store.claims_of("holder") == []

    def test_a_saga_that_has_changed_is_not_deleted(self, store: Store) -> None:
        first = create(store)
        second = save(store, first, replace(first, values={"n": 1}, due_at=store.now() - 1))
        assert store.delete(first.saga_id, first.revision) is False
        assert store.load(first.saga_id) == second
        assert first.saga_id in store.due(1000)
        assert second is not None
        assert store.delete(first.saga_id, second.revision) is True
        assert store.load(first.saga_id) is None

    def test_a_message_of_a_deleted_saga_is_stale(self, store: Store) -> None:
        """Its id, ref and plan are those of the saga that has the id now."""
        _, second = _twice(store)
        for run_id in ("first", ""):
            late = claim(store, replace(second, run_id=run_id), "late")
            assert isinstance(late, Refused)
            assert (late.reason, late.owner) == ("stale", None)
        assert store.load(second.saga_id) == second
        assert granted(claim(store, second, "new")).run_id == "second"

    def test_a_report_of_a_deleted_saga_changes_nothing(self, store: Store) -> None:
        """It names the very revision at which the saga is that has the id now."""
        first, second = _twice(store)
        second = granted(claim(store, second, "new"))
        assert first.revision == second.revision
        assert save(store, first, replace(first, status=SagaStatus.STUCK)) is None
        assert store.load(second.saga_id) == second

    def test_a_terminal_one_is_replaced_in_one_write(self, store: Store) -> None:
        first = _compensated(store)
        new = replace(make_execution(store, order=2), saga_id=first.saga_id, run_id="second")
        saved, created = store.create(new, "new", replaces=first)
        assert (created, saved) == (True, replace(new, revision=1))
        assert store.load(first.saga_id) == saved
        assert first.saga_id not in found_by(store, first.status, 1000)
        assert first.saga_id in found_by(store, saved.status, 1000)

    def test_one_that_has_changed_since_is_not_replaced(self, store: Store) -> None:
        first = _compensated(store)
        assert store.save(first, replace(first, opened_with="x"), "later") is not None
        new = replace(make_execution(store), saga_id=first.saga_id)
        found, created = store.create(new, "new", replaces=first)
        assert (created, found.opened_with) == (False, "x")

    def test_of_twenty_that_replace_it_at_once_one_does(self, store: Store) -> None:
        first = _compensated(store)
        new = replace(make_execution(store), saga_id=first.saga_id, run_id="second")
        answers = at_once(20, lambda n: store.create(new, f"t-{n}", replaces=first)[1])
        assert sorted(answers) == [False] * 19 + [True]

    def test_one_that_is_deleted_is_replaced_all_the_same(self, store: Store) -> None:
        first = _compensated(store)
        store.delete(first.saga_id)
        assert store.create(replace(first, revision=0), "new", replaces=first)[1] is True


def _compensated(store: Store) -> SagaExecution:
    ended = replace(make_execution(store), status=SagaStatus.COMPENSATED, active=(), due_at=None)
    return store.create(ended, "old")[0]
