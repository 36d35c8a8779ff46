"""What a monitor such as Flower knows: Celery's own table of tasks, fed by workers' events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from celery import Celery

from tests.helpers import wait_for


class Watch:
    """The table, and every event of it.

    Args:
        app: whose workers are watched.
    """

    def __init__(self, app: Celery) -> None:
        self.state: Any = app.events.State()
        self.events: list[dict[str, Any]] = []

    def of(self, task_id: str) -> list[str]:
        """Types of the events of a task, in the order in which they came."""
        return [event["type"] for event in list(self.events) if event.get("uuid") == task_id]

    def row(self, task_id: str) -> Any:
        """What the table has of a task; ``None``: nothing."""
        return self.state.tasks.get(task_id)

    def named(self, name: str) -> list[Any]:
        """Rows of the tasks of that name."""
        return [row for row in list(self.state.tasks.values()) if row.name == name]

    def rows(self, saga_id: str) -> dict[str, Any]:
        """StepRef -> row of the tasks of a saga."""
        mine = f"{saga_id}~"
        tasks = list(self.state.tasks.items())
        return {key.removeprefix(mine): task for key, task in tasks if key.startswith(mine)}

    def until(self, task_id: str, state: str) -> Any:
        """The row of a task once it is in that state."""
        seen: Callable[[], bool] = lambda: (row := self.row(task_id)) and row.state == state  # noqa: E731
        wait_for(seen, description=f"{task_id} {state}")
        return self.row(task_id)

    def dead_links(self, saga_id: str) -> list[tuple[str, str, str]]:
        """Roots and parents of a saga's tasks that the table does not have."""
        return [
            (ref, link, target)
            for ref, row in self.rows(saga_id).items()
            for link, target in (("root", row.root_id), ("parent", row.parent_id))
            if target and target not in self.state.tasks
        ]


@contextmanager
def watching(app: Celery) -> Iterator[Watch]:
    """Watch until the end of the block; begins when a worker is heard."""
    watch, heard = Watch(app), threading.Event()
    with app.connection_for_read() as connection:

        def received(event: dict[str, Any]) -> None:
            watch.events.append(dict(event))
            watch.state.event(event)
            if event["type"] == "worker-heartbeat":
                heard.set()

        receiver = app.events.Receiver(connection, handlers={"*": received})
        with ThreadPoolExecutor(1) as pool:
            capture = pool.submit(receiver.capture, limit=None, timeout=None)
            try:
                wait_for(heard.is_set, description="a heartbeat, so that it listens")
                yield watch
            finally:
                receiver.should_stop = True
            capture.result(timeout=30)
