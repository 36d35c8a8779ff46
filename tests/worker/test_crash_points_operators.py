"""SIGKILL for processes that ask something of a saga, before and after each write and publish.

What was not saved has not happened, and a second request does it. What was saved continues by
itself, and a second request changes nothing.
"""

from __future__ import annotations

import json
import signal

import pytest
import redis
from celery.result import AsyncResult

from celery_saga.core.execution import StepStatus
from celery_saga.errors import SagaAlreadyExists, SagaExecutionNotFoundException, SagaNotActionable
from tests.helpers import wait_for
from tests.worker.apps import asking
from tests.worker.apps.crashing_steps import compensation_needing
from tests.worker.crashes import SAVING, WAYS, bodies, died, order, run_clients, whens
from tests.worker.harness import leftovers
from tests.worker.recovering import Path, row

pytestmark = [pytest.mark.worker, pytest.mark.timeout(300)]

UNKNOWN = row("unknown.task", None, inputs=[])
HELD = {"hold": ["a/f"]}
ONCE_COMPENSATED = row(compensation={"max_attempts": 1})

#: What is asked -> the state in which it is asked, the saga's path, and its status if it is not.
VERBS = {
    "pause": (
        "b waits",
        Path("PauseRequested nothing", "PAUSED", "a", (row(), row(queue="unconsumed"))),
        "RUNNING",
    ),
    "resume": ("paused", Path("ResumeRequested f1", "COMPLETED", "a b", context=HELD), "PAUSED"),
    "resume while a runs": (
        "paused while a runs",
        Path("ResumeRequested nothing", "COMPLETED", "a b", context=HELD),
        "PAUSED",
    ),
    "retry": (
        "stuck",
        Path(
            "RetryRequested c0",
            "COMPENSATED",
            "a b A A",
            (ONCE_COMPENSATED, row()),
            context={"fail": ["b/f"], "once": {"a/c": "fail"}},
        ),
        "STUCK",
    ),
    "retry with a receipt": (
        "stuck",
        Path(
            "RetryRequested c0",
            "COMPENSATED",
            "a b A",
            (row(back=compensation_needing), row()),
            context={"fail": ["b/f"]},
        ),
        "STUCK",
    ),
    "retry without success": (
        "stuck",
        Path(
            "RetryRequested nothing",
            "STUCK",
            "a b",
            (row(back=compensation_needing), row()),
            context={"fail": ["b/f"]},
        ),
        "STUCK",
    ),
    "skip a step": (
        "stuck",
        Path("SkipRequested f2", "COMPLETED", "a c", (row(), UNKNOWN, row()), grace=0.0),
        "STUCK",
    ),
    "skip a compensation": (
        "stuck",
        Path(
            "SkipRequested COMPENSATED",
            "COMPENSATED",
            "a b c B A",
            (row(), ONCE_COMPENSATED, row()),
            context={"fail": ["c/f", "b/c"]},
        ),
        "STUCK",
    ),
    "skip one compensation of two": (
        "stuck",
        Path(
            "SkipRequested nothing",
            "STUCK",
            "a b c B A",
            (ONCE_COMPENSATED, ONCE_COMPENSATED, row()),
            context={"fail": ["c/f", "b/c", "a/c"]},
        ),
        "STUCK",
    ),
    "resolve": (
        "stuck",
        Path("ResolveRequested COMPLETED", "COMPLETED", "a", (row(), UNKNOWN), grace=0.0),
        "STUCK",
    ),
    "cancel before the start": (
        "",
        Path("CancelRequested COMPENSATED", "COMPENSATED", "", run={"countdown": 600}),
        "CREATED",
    ),
    "signal": (
        "b waits",
        Path(
            "SignalReceived nothing",
            "RUNNING",
            "a",
            (row(), row(queue="unconsumed")),
            signal="approved",
        ),
        "RUNNING",
    ),
    "terminate": (
        "a runs",
        Path("CancelRequested nothing", "COMPENSATED", "a A", context=HELD),
        "RUNNING",
    ),
}


def word_of(verb):
    """The word for :func:`tests.worker.apps.asking.ask`."""
    return {"retry with a receipt": "retry with", "take in": "take in"}.get(verb, verb.split()[0])


#: Places of a verb besides those of its save.
MORE = {"terminate": ("before revoke", "after revoke")}

#: Sagas that are there to be dropped, or to be taken in.
WAITING = Path("", "COMPLETED", "a b", (row(), row(queue="moved")))
ENDED = Path("", "COMPLETED", "a", (row(),))
COMPENSATED = Path("", "COMPENSATED", "a b A", context={"fail": ["b/f"]})
DROPPED = {
    (verb, name, f"{at} delete"): path
    for verb, name, path in (
        ("forget", "an ended one", ENDED),
        ("delete", "an ended one", ENDED),
        ("delete", "one that waits", WAITING),
    )
    for at in ("before", "after")
}
TAKEN_IN = {
    (name, f"TakenIn {what} {at}"): path
    for name, what, path in (
        ("one that waits", "f1", WAITING),
        ("a completed one", "COMPLETED", ENDED),
        ("a compensated one", "COMPENSATED", COMPENSATED),
    )
    for at in SAVING
}


def cases(way):
    for verb, (_, path, _) in VERBS.items():
        yield from ((verb, f"{path.place} {at}") for at in whens(way, path.place))
        yield from ((verb, place) for place in MORE.get(verb, ()))


CASES = {way: list(cases(way)) for way in WAYS}


def is_saved(place):
    return "before save" not in place and "before delete" not in place


class Asking:
    """All cases of a way: sagas come into their states, and then processes ask and die."""

    def __init__(self, site, way):
        self.site = site
        site.worker("-c", "8", app="tests.worker.apps.crashing")
        self.sagas = {case: VERBS[case[0]][1].start(site) for case in CASES[way]}
        self.dropped = {case: path.start(site) for case, path in DROPPED.items()}
        self.taken = {case: path.start(site) for case, path in TAKEN_IN.items()}
        for (verb, _), result in self.sagas.items():
            self.bring(result, VERBS[verb][0])
        for found in (self.dropped, self.taken):
            for (*_, name, _), result in found.items():
                self.bring(result, "b waits" if name == "one that waits" else "ended")
        self.texts = {case: self.export(result) for case, result in self.taken.items()}
        self.codes = self.ask()
        for (verb, place), result in self.sagas.items():
            if verb in ("terminate", "resume while a runs"):
                self.let_end(verb, place, result)

    def bring(self, result, state):
        """Have the saga come into that state."""
        if state in ("paused", "paused while a runs", "a runs"):
            self.site.journal.wait(result.id, "began", timeout=60)
        if state.startswith("paused"):
            asking.ask(self.site.app, "pause", result.id)
        if state == "paused":
            self.site.journal.open(result.id, "a/f")
            wait_for(lambda: result.progress["a"] is StepStatus.SUCCEEDED, 60)
        if state == "b waits":
            wait_for(lambda: result.progress["b"] is StepStatus.RUNNING, 60)
        if state in ("stuck", "ended"):
            wait_for(lambda: result.ready() and not result.execution.result_pending, 60)

    def export(self, result):
        text = json.dumps(result.execution.raw)
        asking.ask(self.site.app, "delete", result.id)
        return text

    def ask(self):
        asked = {}
        for (verb, place), result in self.sagas.items():
            asked[verb, place] = (word_of(verb), result.id)
        for (verb, name, place), result in self.dropped.items():
            asked[verb, name, place] = (verb, result.id)
        for (name, place), result in self.taken.items():
            asked[name, place] = ("take in", result.id, self.texts[name, place])
        for case, (_, saga_id, *_) in asked.items():
            order(self.site, saga_id, f"client {case[-1]}")
        return dict(zip(asked, run_clients(self.site, [*asked.values()]), strict=True))

    def let_end(self, verb, place, result):
        """Let the body end, unless it is to be killed; a cancel that was not saved comes now."""
        if verb == "terminate" and not is_saved(place):
            assert result.status == "RUNNING"
            assert result.cancel()
        if place != "after revoke":
            self.site.journal.open(result.id, "a/f")

    def check_death(self, case, result):
        assert self.codes[case] == -signal.SIGKILL
        assert died(self.site, result.id)

    def again(self, what, result, text=""):
        return asking.ask(self.site.app, word_of(what), result.id, text)


@pytest.mark.parametrize(
    ("way", "verb", "place"), [(way, *case) for way, found in CASES.items() for case in found]
)
def test_a_verb(sites, once, way, verb, place):
    asked = once(Asking, sites[way], way)
    site, result = asked.site, asked.sagas[verb, place]
    _, path, before = VERBS[verb]
    asked.check_death((verb, place), result)
    if verb != "terminate" and not is_saved(place):
        assert result.status == before
        asked.again(verb, result)
    wait_for(lambda: result.status == path.status, 60)
    assert site.journal.began(result.id) == bodies(path.bodies)
    if path.status == "STUCK":  # it is as stuck as before, and the verb may be asked for again
        assert [each.what for each in result.execution.history].count(verb.split()[0]) == 1
        return
    if verb == "signal":  # the saga still runs, and the same call changes nothing
        before = result.execution
        assert asked.again(verb, result) == before
        assert [each.what for each in before.history] == ["signal"]
    elif verb.startswith(("cancel", "terminate")):
        assert asked.again("cancel", result) is False
    else:
        with pytest.raises(SagaNotActionable):
            asked.again(verb, result)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("verb", "name", "place"), DROPPED)
def test_a_saga_that_is_dropped(sites, once, way, verb, name, place):
    asked = once(Asking, sites[way], way)
    site, result = asked.site, asked.dropped[verb, name, place]
    asked.check_death((verb, name, place), result)
    if not is_saved(place):
        assert result.status == ("RUNNING" if name == "one that waits" else "COMPLETED")
        asked.again(verb, result)
    with pytest.raises(SagaExecutionNotFoundException):
        asked.again(verb, result)

    new = asking.start(site.app, result.id)  # the id is free

    assert new.created
    assert site.settled(new) == "COMPLETED"
    assert AsyncResult(result.id, app=site.app).get(timeout=20) == {}
    assert site.journal.began(result.id) == bodies(DROPPED[verb, name, place].bodies[0] + " a b c")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "place"), TAKEN_IN)
def test_a_saga_that_is_taken_in(sites, once, way, name, place):
    asked = once(Asking, sites[way], way)
    site, result, text = asked.site, asked.taken[name, place], asked.texts[name, place]
    asked.check_death((name, place), result)
    if not is_saved(place):
        with pytest.raises(SagaExecutionNotFoundException):
            result.status  # noqa: B018 - raises if no saga has this id
        asked.again("take in", result, text)
    with pytest.raises(SagaAlreadyExists):
        asked.again("take in", result, text)
    path = TAKEN_IN[name, place]
    site.app.control.add_consumer("moved")
    assert site.settled(result) == path.status
    assert site.journal.began(result.id) == bodies(path.bodies)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left_behind(sites, once, way):
    """After all of the above, all that is over expires."""
    site = once(Asking, sites[way], way).site
    with redis.Redis.from_url(site.settings["result_backend"]) as client:
        wait_for(lambda: not leftovers(client), description="no keys without an expiry")
