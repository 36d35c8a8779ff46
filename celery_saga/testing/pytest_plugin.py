"""The fixtures ``saga_kit``, ``effect_log`` and ``saga_clock``, for projects that use them.

pytest imports this module in every project in which the package is installed. Celery is imported
when a test asks for one of the fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from celery_saga import testing

if TYPE_CHECKING:
    from celery_saga.testing.kit.clock import VirtualClock
    from celery_saga.testing.kit.effects import EffectLog
    from celery_saga.testing.kit.kit import SagaKit


@pytest.fixture
def effect_log() -> Iterator[EffectLog]:
    """A log of effects; it fails the test at its end if something should not have happened."""
    log = testing.EffectLog()
    yield log
    log.check()


@pytest.fixture
def saga_kit(effect_log: EffectLog) -> SagaKit:
    """Runs sagas without servers: ``saga_kit.given(saga)``; with the test's clock and log."""
    return testing.SagaKit(effect_log)


@pytest.fixture
def saga_clock(saga_kit: SagaKit) -> VirtualClock:
    """The clock of the test's sagas."""
    return saga_kit.clock
