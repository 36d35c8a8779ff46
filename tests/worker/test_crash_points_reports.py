"""SIGKILL for the process that reports on a step: that of its body, and a worker's main process
that has lost one, ended it, or does not know its task.
"""

from __future__ import annotations

import contextlib
import signal
import uuid

import pytest

from celery_saga import SagaManager
from celery_saga.core.execution import StepStatus
from celery_saga.errors import SagaExecutionNotFoundException
from tests.helpers import wait_for
from tests.worker.apps import asking
from tests.worker.apps import crashing_steps as tasks
from tests.worker.apps.crashing_steps import early
from tests.worker.crashes import SAVING, WAYS, bodies, died, order, whens
from tests.worker.recovering import APP, FRAIL, SOON, STURDY, Forked, Path, row

pytestmark = [pytest.mark.worker, pytest.mark.timeout(300)]

OWN, OWN_EARLY = row(queue="own"), row(early, queue="own")
HELD, COMPENSATION_HELD = {"hold": ["a/f"]}, {"hold": ["a/c"], "fail": ["b/f"]}
UNKNOWN = row("unknown.task", None, inputs=[], queue="own")

#: What a worker's main process learns, and what becomes of the saga wherever it dies at that.
MAINS = {
    "its child is lost": Path("ClaimVoided f0", "COMPLETED", "a a b", (OWN, row()), "kill", HELD),
    "its child is lost, early ack": Path(
        "ClaimVoided c0", "COMPENSATED", "a A", (OWN_EARLY, row()), "kill", HELD
    ),
    "a body has ended its thread": Path(
        "ClaimVoided f0", "COMPLETED", "a a b", (OWN, row()), context={"once": {"a/f": "exit"}}
    ),
    "a hard time limit": Path(
        "StepFailed c0",
        "COMPENSATED",
        "a A",
        (row(early, queue="own", time_limit=5), row()),
        context=HELD,
    ),
    "Celery has sent its retry": Path(
        "StepReleased nothing",
        "COMPLETED",
        "a a b",
        (row(tasks.resent, queue="own"), row()),
        "kill",
        HELD,
    ),
    "a revoke": Path("StepRevoked c0", "COMPENSATED", "a A", (OWN_EARLY, row()), "revoke", HELD),
    "a revoke of a compensation": Path(
        "StepRevoked nothing",
        "COMPENSATED",
        "a b A A",
        (row(back_queue="own", compensation=SOON), row()),
        "revoke",
        COMPENSATION_HELD,
    ),
    "an unknown task": Path("TaskUnknown nothing", "STUCK", "", (UNKNOWN,), grace=4.0),
    "an unknown task, for the last time": Path(
        "TaskUnknown STUCK", "STUCK", "", (UNKNOWN,), grace=0.0
    ),
    "an unknown compensation": Path(
        "TaskUnknown c0",
        "STUCK",
        "a b c A",
        (row(), row(back="unknown.task", compensation={"inputs": []}, back_queue="own"), row()),
        context={"fail": ["c/f"]},
        grace=0.0,
    ),
}

#: What a body's process reports. A pair: what becomes of the saga if that is not saved, and if so.
CHILDREN = {
    "a retry of Celery's": Path(
        "StepReleased nothing", "COMPLETED", "a a b", context={"once": {"a/f": "retry"}}
    ),
    "a retry of Celery's, early ack": (
        Path(
            "StepReleased nothing",
            "COMPENSATED",
            "a A",
            (row(early), row()),
            context={"once": {"a/f": "retry"}},
        ),
        Path(
            "StepReleased nothing",
            "COMPLETED",
            "a a b",
            (row(early), row()),
            context={"once": {"a/f": "retry"}},
        ),
    ),
    "a retry of Celery's after a cancel": (
        Path(
            "StepReleased c0",
            "COMPENSATED",
            "a b B A",
            trouble="cancel",
            context={"hold": ["b/f"], "once": {"b/f": "retry"}},
        ),
        Path(
            "StepReleased c0",
            "COMPENSATED",
            "a b A",
            trouble="cancel",
            context={"hold": ["b/f"], "once": {"b/f": "retry"}},
        ),
    ),
    "a failure that the engine retries": Path(
        "StepFailed nothing",
        "COMPLETED",
        "a a b",
        (row(retriable=True, max_attempts=3, **SOON), row()),
        context={"once": {"a/f": "fail"}},
    ),
    "a failure of a compensation": Path(
        "StepFailed nothing",
        "COMPENSATED",
        "a b A A",
        (row(compensation=SOON), row()),
        context={"fail": ["b/f"], "once": {"a/c": "fail"}},
    ),
    "a failure that ends the saga": (
        Path("StepFailed COMPENSATED", "COMPENSATED", "a a A", context={"fail": ["a/f"]}),
        Path("StepFailed COMPENSATED", "COMPENSATED", "a", context={"fail": ["a/f"]}),
    ),
    "a success during a pause": (
        Path("StepSucceeded nothing", "COMPLETED", "a a b", trouble="pause", context=HELD),
        Path("StepSucceeded nothing", "COMPLETED", "a b", trouble="pause", context=HELD),
    ),
    "a late success": (
        Path("StepSucceeded c0", "COMPENSATED", "a A", (row(early, queue="zombie"),), "late", HELD),
        Path(
            "StepSucceeded c0", "COMPENSATED", "a A A", (row(early, queue="zombie"),), "late", HELD
        ),
    ),
}
STARTED = Path("Started f0", "COMPLETED", "a")

#: What else becomes of a saga whose body's process has sent Celery's retry and could not say so:
#: the retry takes the step over before the worker has reported that it lost a process.
TAKEN_OVER = {
    "a retry of Celery's, early ack": ("COMPLETED", "a a b"),
    "a retry of Celery's after a cancel": ("COMPENSATED", "a b b B A"),
}


def path_of(name, at):
    found = CHILDREN[name]
    if isinstance(found, Path):
        return found
    return found[at != "before save"]


def cases(paths):
    return {
        way: [
            (name, at)
            for name, found in paths.items()
            for at in whens(way, (found if isinstance(found, Path) else found[0]).place)
        ]
        for way in WAYS
    }


MAIN_CASES, CHILD_CASES = cases(MAINS), cases(CHILDREN)


def all_settled(site, running, help_on):
    """Whether all sagas are over; what is over is not looked at again."""
    for result in [*running]:
        if died(site, result.id):
            execution = result.execution
            if execution.settled and not execution.result_pending:
                running.remove(result)
            else:
                help_on(result, execution)
    return not running


class Mains:
    """Each case has a worker of its own, which dies; then others come."""

    def __init__(self, site, way):
        self.site, found = site, MAIN_CASES[way]
        env = {"SAGA_TEST_ROLE": "bodies "}
        threads = ("-P", "threads", "-c", "4")
        site.start(*threads, "-Q", "celery", app=APP, env=env, **STURDY)
        queues = {case: f"own{number}" for number, case in enumerate(found)}
        self.results = {
            case: MAINS[case[0]].start(
                site, f"main {MAINS[case[0]].place} {case[1]}", queue=queues[case]
            )
            for case in found
        }
        pools = {"a body has ended its thread": "threads"}
        mains = [
            ["-c", "1", "-P", pools.get(case[0], "prefork"), "-Q", queues[case]] for case in found
        ]
        # Their heartbeats must not void a claim before the main process has reported its child.
        Forked(site, "main ", *mains, saga_heartbeat=1.0, saga_heartbeat_ttl=2.0)
        for (name, _), result in self.results.items():
            self.trouble(MAINS[name], result)
        with contextlib.suppress(AssertionError):  # each test looks at its own saga
            wait_for(lambda: all(died(site, one.id) for one in self.results.values()), 100)
        for (name, _), result in self.results.items():
            for gate in MAINS[name].context.get("hold", ()):
                site.journal.open(result.id, gate)
        site.start(*threads, "-Q", ",".join(queues.values()), app=APP, env=env, **STURDY)
        Forked(site, "sweeper ", ["-P", "solo", "-Q", "aside"], **FRAIL)
        running = [*self.results.values()]
        with contextlib.suppress(AssertionError):
            wait_for(lambda: all_settled(site, running, lambda *_: None), 100, interval=0.1)
        for worker in site.workers:
            worker.kill()

    def trouble(self, path, result):
        if not path.trouble:
            return
        count = 1 + bodies(path.bodies).index(path.context["hold"][0])
        line = self.site.journal.wait(result.id, "began", count, timeout=60)
        if path.trouble == "kill":
            self.site.kill_child(line)
        else:
            execution = result.execution
            ref = execution.first_active
            self.site.app.control.revoke(ref.task_id(result.id), terminate=True)


class Children:
    """Bodies' processes die and are replaced; the workers live on."""

    def __init__(self, site, way):
        self.site, self.paths = site, {case: path_of(*case) for case in CHILD_CASES[way]}
        zombie = site.start(
            "-c", "8", "-Q", "zombie", app=APP, env={"SAGA_TEST_ROLE": "zombie "}, **FRAIL
        )
        site.start("-c", "6", app=APP)
        self.results = {}
        for (name, at), path in self.paths.items():
            role = "zombie " if path.trouble == "late" else ""
            self.results[name, at] = path.start(site, f"{role}{path.place} {at}")
        for trouble in ("pause", "cancel", "late"):
            for result in self.each(trouble):
                gate = "b/f" if trouble == "cancel" else "a/f"
                wait_for(lambda r=result, g=gate: g in site.journal.began(r.id), 60)
                if trouble != "late":
                    asking.ask(site.app, trouble, result.id)
                    site.journal.open(result.id, gate, 2)
        self.started = {at: self.start_by_message(at) for at in SAVING}
        zombie.signal(signal.SIGSTOP)
        for result in self.each("late"):
            wait_for(lambda r=result: r.status == "COMPENSATED", 60)
            site.journal.open(result.id, "a/f")
        running = [*self.results.values(), *self.started.values()]
        with contextlib.suppress(AssertionError):  # each test looks at its own saga
            wait_for(lambda: all_settled(site, running, self.help), 100, interval=0.1)
        for result in self.each("late"):
            wait_for(lambda r=result: r.status == "COMPENSATED", 60)
        for worker in site.workers:
            worker.kill()

    def start_by_message(self, at):
        saga_id = uuid.uuid4().hex
        order(self.site, saga_id, f"Started f0 {at}")
        kwargs = {"saga": "started by a message", "context": {}}
        self.site.app.signature("celery_saga.start", kwargs=kwargs).apply_async(task_id=saga_id)
        wait_for(lambda: died(self.site, saga_id), 60)
        manager = SagaManager(self.site.app)
        return wait_for(lambda: self.found(manager, saga_id), 60)

    @staticmethod
    def found(manager, saga_id):
        with contextlib.suppress(SagaExecutionNotFoundException):
            return manager.get(saga_id)

    def each(self, trouble):
        return [
            result for case, result in self.results.items() if self.paths[case].trouble == trouble
        ]

    def help(self, result, execution):
        step = execution.steps[0]
        if execution.status == "PAUSED" and step.status is not StepStatus.RUNNING:
            asking.ask(self.site.app, "resume", result.id)


@pytest.mark.parametrize(
    ("way", "name", "at"), [(way, *case) for way, found in MAIN_CASES.items() for case in found]
)
def test_a_main_process_dies(sites, once, way, name, at):
    mains = once(Mains, sites[way], way)
    path, result = MAINS[name], mains.results[name, at]
    assert died(mains.site, result.id), "no process came by"
    right = [bodies(path.bodies)]
    sent = at == "after push" or (way == "one script" and at == "after save")
    if sent and name == "a body has ended its thread":
        # Another thread of the process may begin the next body before it dies.
        right.append(["a/f", *right[0]])
    assert mains.site.journal.began(result.id) in right
    assert result.status == path.status


@pytest.mark.parametrize(
    ("way", "name", "at"), [(way, *case) for way, found in CHILD_CASES.items() for case in found]
)
def test_a_process_of_the_pool_dies(sites, once, way, name, at):
    children = once(Children, sites[way], way)
    path, result = children.paths[name, at], children.results[name, at]
    assert died(children.site, result.id), "no process came by"
    right = [(path.status, bodies(path.bodies))]
    if at == "before save" and name in TAKEN_OVER:
        status, text = TAKEN_OVER[name]
        right.append((status, bodies(text)))
    assert (result.status, children.site.journal.began(result.id)) in right


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("at", SAVING)
def test_a_start_by_message(sites, once, way, at):
    children = once(Children, sites[way], way)
    result = children.started[at]
    assert children.site.journal.began(result.id) == bodies(STARTED.bodies)
    assert result.status == STARTED.status
