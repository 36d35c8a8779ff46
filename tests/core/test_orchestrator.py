"""The shell: what is sent with a save, what after it, and what if others save first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from celery_saga.core.events import CancelRequested, Dispatch, PauseRequested
from celery_saga.core.execution import Direction, SagaExecution, SagaStatus, StepRef
from celery_saga.core.orchestrator import Orchestrator
from celery_saga.core.ports import Envelope
from celery_saga.core.retry import LONGEST_CONFLICT_PAUSE, SAVE_ATTEMPTS
from celery_saga.errors import PublishRefused, StoreUnavailable, UnsendableStep
from celery_saga.stores.memory import MemoryStore
from tests.core.scenario import plan_of

HERE = "here"


class Carrying(MemoryStore):
    """A store on the server ``here``, before which others may save."""

    endpoint = HERE  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(lambda: 1_000.0)
        self.carried: list[Any] = []
        self.refuses = False
        self.others = 0

    def create(
        self, execution: Any, token: str, batch: Sequence[Envelope] = (), replaces: Any = None
    ) -> Any:
        self._carry(batch)
        return super().create(execution, token)

    def save(self, before: Any, after: Any, token: str, batch: Sequence[Envelope] = ()) -> Any:
        if self.others:
            self.others -= 1
            return None
        self._carry(batch)
        return super().save(before, after, token)

    def _carry(self, batch: Sequence[Envelope]) -> None:
        if batch and self.refuses:
            raise PublishRefused("no")
        self.carried += [envelope.payload for envelope in batch]


@dataclass
class Sender:
    """Publishes messages and results."""

    endpoint: str = ""
    sent: list[Any] = field(default_factory=list)
    unsendable: bool = False
    reconsidered: int = 0

    def first_message(self, execution: SagaExecution) -> tuple[SagaExecution, Any]:
        return execution, self.message(execution, Dispatch(StepRef((0,), Direction.FORWARD, 1)))

    def message(self, execution: SagaExecution, command: Dispatch) -> Mapping[str, Any]:
        return {"ref": str(command.ref)}

    def encode(self, message: Any) -> Envelope | None:
        payload = message.status.value if isinstance(message, SagaExecution) else message["ref"]
        return Envelope(self.endpoint, payload) if self.endpoint else None

    def publish(self, message: Any) -> None:
        if isinstance(message, SagaExecution):
            self.sent.append(message.status.value)
            return
        if self.unsendable:
            raise UnsendableStep("a", "task", "its queue is not known")
        self.sent.append(message["ref"])

    def reconsider(self) -> None:
        self.reconsidered += 1


class Engine:
    def __init__(self, endpoint: str = "") -> None:
        self.store, self.sender = Carrying(), Sender(endpoint)
        self.pauses: list[float] = []
        sender: Any = self.sender
        self.orchestrator = Orchestrator(
            self.store, sender, sender, store_timeout=0.0, pause=self.pauses.append
        )

    def start(self) -> SagaExecution:
        options: Any = {"token": "t", "wants_result": True}
        return self.orchestrator.start(plan_of("a"), "s", {}, **options)[0]


class TestWhatAStoreCarries:
    def test_its_own_envelopes_go_with_the_save(self) -> None:
        engine = Engine(HERE)
        engine.start()
        assert (engine.store.carried, engine.sender.sent) == (["f0~1"], [])

    @pytest.mark.parametrize("endpoint", ["", "elsewhere"])
    def test_all_others_are_published_after_it(self, endpoint: str) -> None:
        engine = Engine(endpoint)
        engine.start()
        assert (engine.store.carried, engine.sender.sent) == ([], ["f0~1"])

    def test_what_the_server_refuses_is_published(self) -> None:
        engine = Engine(HERE)
        engine.store.refuses = True
        engine.start()
        assert (engine.store.carried, engine.sender.sent) == ([], ["f0~1"])
        assert engine.sender.reconsidered == 1

    @pytest.mark.parametrize("endpoint", [HERE, "elsewhere"])
    def test_a_result_is_stored_either_way(self, endpoint: str) -> None:
        engine = Engine(endpoint)
        engine.start()

        ended, changed = engine.orchestrator.apply("s", CancelRequested(1_001.0))

        assert changed
        assert (ended.status, ended.result_pending) == (SagaStatus.COMPENSATED, False)
        where = engine.store.carried if endpoint == HERE else engine.sender.sent
        assert where == ["f0~1", "COMPENSATED"]
        assert engine.store.load("s") == ended

    def test_what_comes_of_sending_is_applied_in_turn(self) -> None:
        """A message that can never be sent fails its step, whose failure ends the saga."""
        engine = Engine()
        engine.sender.unsendable = True

        started = engine.start()

        assert started.status is SagaStatus.COMPENSATED
        assert engine.sender.sent == ["COMPENSATED"]
        assert not started.result_pending


class TestOthersSaveFirst:
    @pytest.mark.parametrize("others", [1, 2, 20, SAVE_ATTEMPTS - 1])
    def test_it_is_tried_again(self, others: int) -> None:
        engine = Engine()
        engine.start()
        engine.store.others = others

        paused, changed = engine.orchestrator.apply("s", PauseRequested(1_001.0))

        assert changed
        assert paused == engine.store.load("s")
        assert len(engine.pauses) <= others - 1, "the first try again comes at once"
        assert all(0 <= pause <= LONGEST_CONFLICT_PAUSE for pause in engine.pauses)

    def test_not_without_end(self) -> None:
        engine = Engine()
        before = engine.start()
        engine.store.others = 1_000

        with pytest.raises(StoreUnavailable, match=r"saga s .*PauseRequested.*the sweep"):
            engine.orchestrator.apply("s", PauseRequested(1_001.0))

        assert engine.store.others == 1_000 - SAVE_ATTEMPTS
        assert engine.store.load("s") == before
        engine.store.others = 0
        assert engine.orchestrator.apply("s", PauseRequested(1_001.0)).changed
