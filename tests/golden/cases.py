"""The cases: what has happened to a saga when its golden file is written.

``python -m tests.golden`` writes the files of cases that have none.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

from celery_saga import SagaStatus
from celery_saga.core import events
from celery_saga.core.ports import Reserved
from celery_saga.core.state import Request, StepRef
from tests.golden import app
from tests.golden.stage import Stage
from tests.golden.values import VALUES

Case = Callable[[Stage], Stage]

ORDER: dict[str, Any] = {
    "order_id": 7,
    "total": 99.99,
    "lines": [{"sku": "A", "quantity": 2}, {"sku": "B", "quantity": 1}],
    "customer": {"city": "Łódź", "tags": []},
    "card_token": "tok_golden",
}

TEN_YEARS = timedelta(days=3650)


def started(stage: Stage, **options: Any) -> Stage:
    """The linear saga; its first step is sent."""
    return stage.start(app.linear, ORDER, **options)


def created(stage: Stage) -> Stage:
    return started(stage, countdown=TEN_YEARS.total_seconds())


def sent(stage: Stage) -> Stage:
    callbacks = {"link": app.notify.s("fine"), "link_error": [app.notify.s(), app.notify.si(7)]}
    headers = {"trace": "abc", "numbers": [1, 2.5]}
    return started(stage, headers=headers, deadline=TEN_YEARS, **callbacks)


def claimed(stage: Stage) -> Stage:
    return sent(stage).ok("f0~1", {"reserve_id": "r-1"}).claim("f1~1")


def retried_by_celery(stage: Stage) -> Stage:
    revised = {"kwargs": {"amount": 1}, "options": {"queue": "slow"}, "headers": {"try": 2}}
    return claimed(stage).retry("f1~1", revised)


def kept(stage: Stage) -> Stage:
    """A step has replaced a key that a compensation before it reads."""
    stage = claimed(stage).report("f1~1", {"charge_id": "c-1"})
    return stage.ok("f2~1", {"total": "mailed"})


def repeated_task(stage: Stage) -> Stage:
    """Each step that has succeeded knows which keys of its result its compensation reads."""
    return kept(stage).claim("f3~1").void("f3~1")


def rolling_back(stage: Stage) -> Stage:
    return kept(stage).fail("f3~1", 'a text with "quotes" and ü')


def compensation_claimed(stage: Stage) -> Stage:
    return rolling_back(stage).claim("c1~2")


def cancelled(stage: Stage) -> Stage:
    """A worker was cut off; its step is being compensated."""
    stage = started(stage).claim("f0~1").apply(events.CancelRequested(stage.now, "ann", "why"))
    return stage.void("f0~1").claim("c0~2")


def late_effect(stage: Stage) -> Stage:
    """That worker reports its step while the compensation runs."""
    return cancelled(stage).report("f0~1", {"reserve_id": "late"})


def reopened(stage: Stage) -> Stage:
    """It reports its step when the compensation has ended."""
    return cancelled(stage).report("c0~2").report("f0~1", {"reserve_id": "late"})


def lost(stage: Stage) -> Stage:
    return started(stage).claim("f0~1").void("f0~1").claim("f0~2")


def missing_message(stage: Stage) -> Stage:
    return started(stage).overdue("MISSING")


def unknown_task(stage: Stage) -> Stage:
    stage = started(stage)
    return stage.apply(events.TaskUnknown(stage.now, stage.execution.active[0]))


def paused(stage: Stage) -> Stage:
    stage = started(stage).apply(events.PauseRequested(stage.now, "ann"))
    return stage.ok("f0~1", {"reserve_id": "r-1"})


def completed(stage: Stage) -> Stage:
    return kept(stage).ok("f3~1", {"ship_id": "s-1"})


class _Unavailable:
    def encode(self, execution: Any) -> None:
        return None

    def publish(self, execution: Any) -> None:
        raise ConnectionError("the result backend is unavailable")


def result_pending(stage: Stage) -> Stage:
    stage = kept(stage).claim("f3~1").without_results(_Unavailable())
    return stage.report("f3~1", {"ship_id": "s-1"})


def compensated(stage: Stage) -> Stage:
    return rolling_back(stage).ok("c1~2").ok("c0~2")


def booked(stage: Stage) -> Stage:
    return stage.start(app.retried, ORDER).ok("f0~1", {"book_id": "b-1"})


def waits_for_attempt(stage: Stage) -> Stage:
    return booked(stage).fail("f1~1", "busy")


def exhausted(stage: Stage) -> Stage:
    """Stuck, because its attempts are used up and an operator decides."""
    stage = booked(stage)
    for epoch in (1, 2, 3):
        stage = stage.fail(f"f1~{epoch}", "busy").overdue()
    return stage.fail("f1~4", "busy")


def repaired(stage: Stage) -> Stage:
    stage = exhausted(stage)
    return stage.apply(events.RetryRequested(stage.now, "bob", {"total": Decimal("1.50")}, 1))


def resolved(stage: Stage) -> Stage:
    stage = exhausted(stage)
    return stage.apply(events.ResolveRequested(stage.now, SagaStatus.COMPENSATED, "bob", 1))


def compensation_failed(stage: Stage) -> Stage:
    """Stuck at a compensation that has failed for good."""
    stage = booked(stage).fail("f1~1", "card refused", final=True)
    return stage.fail("c0~2", "cannot be cancelled", final=True)


def past_pivot(stage: Stage) -> Stage:
    stage = booked(stage).ok("f1~1", {"pay_id": "p-1"}).ok("f2~1", {"seal": None})
    return stage.fail("f3~1", "mail server")


def value_types(stage: Stage) -> Stage:
    return stage.start(app.values, VALUES).ok("f0~1", {"seen": [1]}, remove=("yes",))


def large_context(stage: Stage) -> Stage:
    """The message has a reference to the context, in its place."""
    return stage.start(app.values, {**VALUES, "long": "x" * 4000})


def unknown(stage: Stage) -> Stage:
    """Stuck: its step was lost again and again, and has no compensation."""
    stage = stage.start(app.values, VALUES).claim("f0~1").void("f0~1").claim("f0~2").void("f0~2")
    return stage.overdue().claim("f0~3").void("f0~3")


def start_message(stage: Stage) -> Stage:
    """A start that no worker has taken yet, with a callback of its own."""
    signature = app.linear.s(**ORDER, card=Decimal("1.50"))
    signature.apply_async(
        task_id=stage.saga_id, link=app.notify.s("linked"), headers={"trace": "b"}
    )
    return stage.collect()


def instances(stage: Stage) -> Stage:
    """What a worker reports with its heartbeats."""
    store = stage.orchestrator.store
    store.register_app("golden")
    store.heartbeat("instance-1", 6.0, [Reserved("a~f0~1"), Reserved("b~c1.0~2", True)])
    store.heartbeat("instance-2", 6.0, [])
    return stage


def tree_order(stage: Stage) -> Stage:
    order = {**ORDER, "line": "outer", "deep": {"list": ["i", "j"]}}
    return stage.start(app.tree, order).ok("f0~1", {"open_id": "o-1"})


def branches(stage: Stage) -> Stage:
    """A branch is claimed; in the other one a key was written, and one was removed."""
    stage = tree_order(stage).claim("f1.0~1").ok("f1.1.0~1", {"wrap_id": "w"})
    return stage.ok("f1.1.1~1", {"seen": ["x"]}, remove=("card_token",))


def choice(stage: Stage) -> Stage:
    return branches(stage).report("f1.0~1", {"left_id": "l-1"})


def nested(stage: Stage) -> Stage:
    stage = choice(stage).ok("f2~1", answer=False).ok("f2.1~1", {"bike_id": "k-1"})
    return stage.ok("f3.0~1", {"quote_id": "q-1"})


def items(stage: Stage) -> Stage:
    stage = nested(stage).ok("f3.1~1", {"insure_id": "n-1"})
    return stage.ok("f4.0.0~1", {"wrap_id": "w-0"}).claim("f4.1.0~1")


def items_in_turn(stage: Stage) -> Stage:
    stage = items(stage).report("f4.1.0~1", {"wrap_id": "w-1"})
    stage = stage.ok("f4.0.1~1", {"seen": []}).ok("f4.1.1~1", {"seen": []})
    return stage.ok("f5.0~1", {"stamp_id": "s-0"})


def tree_rolling_back(stage: Stage) -> Stage:
    """In the group both compensations run at the same time."""
    return items(stage).fail("f4.0.1~1", "torn").report("f4.1.0~1", {"wrap_id": "w-1"})


def tree_completed(stage: Stage) -> Stage:
    return items_in_turn(stage).ok("f5.1~1", {"stamp_id": "s-1"})


def waits(stage: Stage) -> Stage:
    """It waits for one signal, and has got another one already."""
    stage = stage.start(app.waiting, {"order_id": 7, "lines": ["x", "y"]})
    return stage.ok("f0~1", {"ask_id": "a-1"}).signal("paid", {"amount": 5})


def reminded(stage: Stage) -> Stage:
    return waits(stage).overdue()


def sleeps(stage: Stage) -> Stage:
    stage = waits(stage).signal("approved", {"by": "ann"})
    return stage.ok("f2.0~1", {"check_id": "k"}).ok("f2.1~1", {"check_id": "k"})


def committing(stage: Stage, **options: Any) -> Stage:
    """Its commit tasks are sent, and one is claimed."""
    stage = stage.start(app.committing, ORDER, **options).ok("f0~1", {"hold_id": "h-1"})
    stage = stage.ok("f1.0~1", {"part_id": "p-0"}).ok("f1.1~1", {"part_id": "p-1"})
    return stage.claim("f2.0~1")


def restarted(stage: Stage) -> Stage:
    """It was started anew in the place of a run that was compensated."""
    stage = stage.start(app.committing, ORDER).ok("f0~1", {"hold_id": "h-0"})
    stage = stage.fail("f1.0~1", "torn").ok("c0~2")
    return committing(stage, on_duplicate="restart_failed")


def requested(stage: Stage) -> Stage:
    """The reply to a request is awaited."""
    message = {
        "target": "golden-service",
        "task": "golden.service",
        "args": ['{"sku": "A", "price": {"__type__": "decimal", "__value__": "1.50"}}'],
        "kwargs": {"urgent": "true"},
        "options": {"queue": "golden"},
    }
    stage = stage.start(app.remote, ORDER)
    return stage.ok("f0~1", request=Request("token-1", message))


def replied(stage: Stage) -> Stage:
    """The handler of the reply is sent."""
    reply = {"status": 200, "content": '{"id": 7}', "related_services": ["stock"]}
    ref = StepRef.of("f0~2")
    return requested(stage).apply(events.ReplyReceived(stage.now, ref, "token-1", reply))


def typed(stage: Stage) -> Stage:
    """The context has a model, and so has that of the nested saga."""
    return stage.start(app.typed, {"order_id": 7, "total": 9.5}).ok("f0~1", {"open_id": "o-1"})


def held(stage: Stage) -> Stage:
    """One branch waits for an operator; the saga is stuck once the other one has ended."""
    return stage.start(app.held, {"order_id": 7}).claim("f0.1~1").fail("f0.0~1", "busy")


CASES: dict[str, Case] = {
    "remote-requested": requested,
    "remote-replied": replied,
    "linear-created": created,
    "linear-limited": created,
    "linear-sent": sent,
    "linear-claimed": claimed,
    "linear-retried-by-celery": retried_by_celery,
    "linear-kept-values": kept,
    "linear-repeated-task": repeated_task,
    "linear-rolling-back": rolling_back,
    "linear-compensation-claimed": compensation_claimed,
    "linear-late-effect": late_effect,
    "linear-reopened": reopened,
    "linear-lost": lost,
    "linear-missing-message": missing_message,
    "linear-unknown-task": unknown_task,
    "linear-paused": paused,
    "linear-completed": completed,
    "linear-result-pending": result_pending,
    "linear-compensated": compensated,
    "retried-waits": waits_for_attempt,
    "retried-stuck": exhausted,
    "retried-repaired": repaired,
    "retried-resolved": resolved,
    "retried-compensation-failed": compensation_failed,
    "retried-past-pivot": past_pivot,
    "values": value_types,
    "values-large": large_context,
    "values-unknown": unknown,
    "start-message": start_message,
    "instances": instances,
    "tree-branches": branches,
    "tree-choice": choice,
    "tree-nested": nested,
    "tree-items": items,
    "tree-items-in-turn": items_in_turn,
    "tree-rolling-back": tree_rolling_back,
    "tree-completed": tree_completed,
    "typed": typed,
    "tree-held": held,
    "waits": waits,
    "waits-reminded": reminded,
    "waits-sleeps": sleeps,
    "commits": committing,
    "commits-restarted": restarted,
}
