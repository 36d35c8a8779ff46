"""A site whose broker, result backend and store are where a test wants them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from celery_saga import Saga, SagaManager, SagaResult
from tests.worker.apps.steps import compensation, late
from tests.worker.harness import QUICK, Journal, Site
from tests.worker.servers import Monitor, Server

#: The bodies of the saga that succeeds, and of the one whose last step fails.
GOOD, BAD = ["a/f", "b/f", "c/f"], ["a/f", "b/f", "c/f", "b/c", "a/c"]


class Deployment(Site):
    """Like a site, with all settings given; nothing is flushed, as the servers are the test's own.

    Args:
        server: the broker's.
        settings: Celery's and ours, JSON only; ``broker_url`` and ``result_backend`` among them.
    """

    def __init__(
        self, server: Server, journal: Journal, folder: Path, settings: dict[str, Any]
    ) -> None:
        self.url, self.journal, self.folder = settings["broker_url"], journal, folder
        self.server, self.client = server, server.admin
        self.workers = []
        self._stack = ExitStack()
        self.settings = {**QUICK, **settings}
        self.app = self.new_app()

    def new_app(self, name: str = "site", **settings: Any) -> Celery:
        app = Celery(name, set_as_current=False)
        app.conf.update(**{**self.settings, **settings})
        SagaManager(app)
        self._stack.callback(app.close)
        return app

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.process.stop()
        self._stack.close()

    def abc(self, **options: Any) -> Saga:
        """Three steps with a compensation each; ``fail=["c/f"]`` fails the last."""
        saga = Saga("atomic", app=self.app)
        for name in "abc":
            saga.local_step(late, name=name, **options).on_failure(compensation, **options)
        return saga.commit()

    def run(self, saga: Saga, **options: Any) -> tuple[SagaResult, SagaResult]:
        """One saga that completes and one that is compensated, to their ends."""
        good = saga.apply_async({}, **options)
        bad = saga.apply_async({"fail": ["c/f"]}, **options)
        assert (self.settled(good), self.settled(bad)) == ("COMPLETED", "COMPENSATED")
        assert self.journal.began(good.id) == GOOD
        assert self.journal.began(bad.id) == BAD
        return good, bad

    def senders(self, saga: Saga | None = None, **options: Any) -> dict[str, set[str]]:
        """Run both sagas, and say by whom their messages were sent: ref -> ``lua``, ``tcp``..."""
        with Monitor(self.client) as monitor:
            good, bad = self.run(saga or self.abc(), **options)
        found = monitor.senders(good.id)
        assert sorted(found) == ["f0", "f1", "f2"]
        back = monitor.senders(bad.id)
        assert sorted(back) == ["c0", "c1", "f0", "f1", "f2"]
        return {**found, **{f"bad {ref}": by for ref, by in back.items()}}


def user(admin: redis.Redis, name: str, *rules: str) -> str:
    """Make a user of the server who may do all that ``rules`` do not take; its part of a URL."""
    admin.execute_command("ACL", "SETUSER", name, "reset", "on", ">secret", "~*", "&*", "+@all")
    if rules:
        admin.execute_command("ACL", "SETUSER", name, *rules)
    return f"{name}:secret@"
