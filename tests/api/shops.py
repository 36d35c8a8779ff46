"""A shop for tests of what operators see and do."""

from __future__ import annotations

from typing import Any

from celery import Celery

from celery_saga import Saga, SagaManager, SagaResult
from celery_saga.stores.memory import MemoryStore


class Shop:
    """An app whose sagas end as their contexts say, on a clock that the test turns."""

    def __init__(self, **settings: Any) -> None:
        self.time = 1_000.0
        self.ran: list[str] = []
        self.fails: set[str] = set()
        self.app = app = Celery("shop", broker="memory://", set_as_current=False)
        app.conf.update(task_always_eager=True, **settings)
        self.manager = SagaManager(app, storage=MemoryStore(lambda: self.time))
        take, give_back, pay = map(self.task, ("take", "give_back", "pay"))
        for title in ("orders", "returns"):
            saga = Saga(title, app=app)
            saga.local_step(take, name="take").on_failure(give_back, max_attempts=1)
            saga.local_step(pay, name="pay", read_only=True)
            saga.commit()
            setattr(self, title, saga)

    def task(self, name: str) -> Any:
        def body(fail: list[str] | None = None) -> None:
            self.ran.append(name)
            if name in self.fails.union(fail or []):
                raise RuntimeError(f"{name} is out of order")

        return self.app.task(body, name=f"shop.{name}", shared=False)

    def started(self, saga: str = "orders", *, fail: list[str] | None = None) -> SagaResult:
        return getattr(self, saga).delay(fail=fail or [])  # type: ignore[no-any-return]

    def stuck(self) -> SagaResult:
        result = self.started(fail=["pay", "give_back"])
        assert result.status == "STUCK"
        self.ran.clear()
        return result
