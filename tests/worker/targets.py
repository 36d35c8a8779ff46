"""Workers that are to be killed or stopped while they run bodies, and one that takes over."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery_saga import Saga, SagaResult
from celery_saga.testing.embedded import EmbeddedValkey
from tests.helpers import wait_for
from tests.worker.apps import bodies as tasks
from tests.worker.harness import Journal, Site, Worker

DONE, COMPENSATED = "COMPLETED", "COMPENSATED"

#: What a target runs: a step with late or early acknowledgement, or the compensation of one.
ALL = ("late", "early", "late compensation", "early compensation")

#: What becomes of a saga whose worker was lost, and the directions of the bodies of its step ``a``:
#: reruns and compensations as the task's acks say.
LOST = {
    "late": (DONE, "ff"),
    "early": (COMPENSATED, "fc"),
    "late compensation": (COMPENSATED, "fcc"),
    "early compensation": (COMPENSATED, "fcc"),
}

#: What becomes of one whose body had time to end.
ENDED = {
    "late": (DONE, "f"),
    "early": (DONE, "f"),
    "late compensation": (COMPENSATED, "fc"),
    "early compensation": (COMPENSATED, "fc"),
}

_numbers = itertools.count(1)


@dataclass
class Target:
    """A worker with a queue of its own, and the sagas of which it runs a step or a compensation."""

    site: Site
    queue: str
    worker: Worker
    rescuer: Worker
    sagas: dict[str, SagaResult] = field(default_factory=dict)
    #: What the journal says of the body that is held.
    began: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def journal(self) -> Journal:
        return self.site.journal

    def hold(self, row: str, way: str = "held once") -> SagaResult:
        """Start a saga of step ``a``, which the worker has begun when this returns.

        Args:
            row: ``late`` or ``early`` for the step itself, ``late compensation`` or
                ``early compensation`` for its compensation.
            way: what the body does.
        """
        ack, _, compensation = row.partition(" ")
        task = {"late": tasks.late, "early": tasks.early}[ack]
        compensation_task = {"late": tasks.compensation, "early": tasks.early_compensation}[ack]
        ways = {"a/c": way, "b/f": "declines"} if compensation else {"a/f": way}
        saga = Saga("target", app=self.site.app)
        saga.local_step(
            tasks.late if compensation else task, name="a", queue=self.queue
        ).on_failure(compensation_task if compensation else tasks.compensation, queue=self.queue)
        saga.local_step(tasks.late, name="b", queue=self.queue)
        result = self.sagas[row] = saga.commit().delay(ways=ways)
        self.began[row] = self.journal.wait(result.id, "began", 3 if compensation else 1)
        return result

    def let_end(self, row: str) -> None:
        """Let a held body of the row end."""
        self.journal.open(self.sagas[row].id, "a/c" if "compensation" in row else "a/f")

    def rescue(self) -> None:
        """Let another worker have the queue."""
        self.site.app.control.add_consumer(self.queue, destination=[self.rescuer.name])

    def leave(self) -> None:
        """The other worker has the queue no more."""
        self.site.app.control.cancel_consumer(self.queue, destination=[self.rescuer.name])

    def ledger(self, row: str) -> tuple[str, str]:
        """How the saga ended, and the directions of the bodies of ``a``."""
        result = self.sagas[row]
        status = self.site.settled(result)
        began = self.journal.began(result.id)
        return status, "".join(name[2:] for name in began if name.startswith("a/"))

    def wait_until_lost(self) -> None:
        wait_for(
            lambda: not self.worker.process.alive,
            20,
            description=f"the worker to end: {self.worker.text()[-3000:]}",
        )


#: A database with a worker that serves its own queue only, until a test adds another.
SitePair = tuple[Site, Worker]


@contextmanager
def site_pair_of(journal: Journal, folder: Path) -> Iterator[SitePair]:
    """A site and a worker that takes over, on a server of its own."""
    with EmbeddedValkey() as server:
        site = Site(server.url(), journal, folder)
        rescuer = site.start("-Q", "rescue", "-c", "4", app="tests.worker.apps.table")
        try:
            yield site, rescuer.wait_until_ready()
        finally:
            site.close()


def target(
    site_pair: SitePair, pool: str = "prefork", bodies: int = len(ALL), **more: Any
) -> Target:
    """A worker with room for so many bodies; it is not waited for."""
    site, rescuer = site_pair
    queue = f"target-{next(_numbers)}"
    options = ("-P", pool, "-c", str(bodies), "-Q", queue)
    worker = site.start(*options, app="tests.worker.apps.table", **more)
    return Target(site, queue, worker, rescuer)


def hold_all(targets: Sequence[Target], rows: Sequence[str] = ALL, way: str = "held once") -> None:
    """Let each of them begin all the rows."""
    for each in targets:
        each.worker.wait_until_ready()
        for row in rows:
            each.hold(row, way)
