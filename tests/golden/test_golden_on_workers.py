"""A worker of today takes over what an earlier version has left: checkpoints, claims, messages."""

from __future__ import annotations

from decimal import Decimal

import pytest

from celery_saga import SagaResult
from celery_saga.runtime import runtime_of
from tests.golden.reading import files
from tests.golden.values import VALUES
from tests.helpers import wait_for
from tests.worker.harness import Site

pytestmark = pytest.mark.worker

#: Of these the callers and operators have nothing to do.
TAKEN_OVER = (
    "linear-sent",
    "linear-claimed",
    "linear-retried-by-celery",
    "linear-rolling-back",
    "linear-compensation-claimed",
    "linear-reopened",
    "linear-result-pending",
    "retried-past-pivot",
    "values",
    "values-large",
    "tree-branches",
    "tree-items",
    "tree-rolling-back",
    "typed",
)


def test_a_worker_continues_all_of_them(site: Site) -> None:
    by_name = {each.name: each for each in files()}
    for name in (*TAKEN_OVER, "start-message", "instances"):
        golden = by_name[name]
        golden.restore(site.client)
        for message in golden.messages:  # most of them are stale
            golden.send(site.client, message)
    options = ("-Q", "celery,golden,slow")
    site.start(*options, app="tests.golden.app", env={"PYTHONWARNINGS": "ignore"})
    runtime = runtime_of(site.app)
    ends = {name: by_name[name].ends for name in TAKEN_OVER} | {"start-message": "COMPLETED"}
    results = {name: SagaResult(runtime, name) for name in ends}
    wait_for(
        lambda: runtime.store.load("start-message") is not None,
        description=f"the start: {site.workers[0].text}",
    )
    assert {name: site.settled(result) for name, result in results.items()} == ends
    pending = results["linear-result-pending"]
    wait_for(lambda: not pending.execution.result_pending, description="the result to be stored")
    assert results["start-message"].context["card"] == Decimal("1.50")
    assert results["values"].context["blob"] == VALUES["blob"]
