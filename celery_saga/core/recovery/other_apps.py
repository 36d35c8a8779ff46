"""Detects other apps whose workers keep sagas under the same keys, by mistake.

Apps need different prefixes of keys (or databases). If they share one, no worker may act upon
another app's sagas: it would search for their messages in its own broker, and send them there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from celery_saga.core.execution import SagaExecution
from celery_saga.core.ports import BrokerInspector, Store

log = logging.getLogger("celery_saga")


class OtherApps:
    """The apps that one worker has found in its store.

    Args:
        store: of the worker's app.
        inspector: knows the tasks of that app.
        app: the name of the app in the store; empty: other apps are not detected.
    """

    def __init__(self, store: Store, inspector: BrokerInspector, app: str = "") -> None:
        self._store, self._inspector, self._app = store, inspector, app
        #: The names of the other apps.
        self.other_apps: frozenset[str] = frozenset()

    def refresh(self) -> None:
        """Register the app and read the others; an app is kept for a day after its last worker."""
        if not self._app:
            return
        before, self.other_apps = self.other_apps, self._store.register_app(self._app) - {self._app}
        if self.other_apps - before:
            log.warning(
                "the store of the app %s has sagas of other apps under the same saga_key_prefix: "
                "%s. A worker acts upon those of which its app has a task. Give each app a "
                "saga_key_prefix of its own, unless they share sagas on purpose",
                self._app,
                "; ".join(sorted(self.other_apps)),
            )

    def is_own(self, execution: SagaExecution) -> bool:
        """Whether this worker may act upon a saga.

        With several apps under one prefix, it must have one of the tasks of the saga's plan. Any
        worker that can run a step has one, so a worker acts upon each saga that can continue.
        """
        return not self.other_apps or any(map(self._inspector.has_task, _tasks(execution)))


def _tasks(execution: SagaExecution) -> Iterator[str]:
    return (call.task for _, call, _ in execution.plan.calls())
