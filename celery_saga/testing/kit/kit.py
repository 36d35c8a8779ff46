"""One clock and one log of effects for the sagas of a test; the fixture ``saga_kit`` is one."""

from __future__ import annotations

from celery import Celery

from celery_saga.core.execution import SagaStatus
from celery_saga.testing.kit.clock import VirtualClock
from celery_saga.testing.kit.effects import EffectLog
from celery_saga.testing.kit.run import Run
from celery_saga.testing.kit.scenario import Scenario, Startable
from celery_saga.testing.kit.stage import Stage


class SagaKit:
    """Runs the sagas of one test: they share a clock, a store and a log of effects.

    Args:
        effects: the log; by default a new one.

    Attributes:
        clock: the time of the sagas.
        effects: what the test's doubles have done.
    """

    def __init__(self, effects: EffectLog | None = None) -> None:
        self.clock = VirtualClock()
        self.effects = EffectLog() if effects is None else effects
        self._stages: dict[int, Stage] = {}

    def given(self, saga: Startable) -> Scenario:
        """Begin a scenario of a saga.

        Raises:
            SetupError: the saga's app has no ``SagaManager`` in this process.
        """
        return Scenario(saga, self._stage(saga.app), _ended=self._ended)

    def _stage(self, app: Celery) -> Stage:
        found = self._stages.get(id(app))
        if found is None:
            found = self._stages[id(app)] = Stage(app, self.clock)
        return found

    def _ended(self, run: Run) -> None:
        if run.status is SagaStatus.COMPENSATED:
            self.effects.rolled_back(run.saga_id)


def given(saga: Startable) -> Scenario:
    """Begin a scenario of a saga: ``given(checkout).context(order_id=7).expect_completed()``.

    Each call has a clock and a store of its own; the fixture ``saga_kit`` shares them.

    Raises:
        SetupError: the saga's app has no ``SagaManager`` in this process.
    """
    return SagaKit().given(saga)
