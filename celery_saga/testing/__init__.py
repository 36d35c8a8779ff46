"""Tools for tests of sagas, and of stores for them.

A name is imported when it is first used: pytest imports this package in every project in which it
is installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_saga.testing.kit.clock import VirtualClock as VirtualClock
    from celery_saga.testing.kit.effects import EffectLog as EffectLog
    from celery_saga.testing.kit.everywhere import (
        assert_rolls_back_everywhere as assert_rolls_back_everywhere,
    )
    from celery_saga.testing.kit.kit import SagaKit as SagaKit
    from celery_saga.testing.kit.kit import given as given
    from celery_saga.testing.kit.run import Run as Run
    from celery_saga.testing.kit.scenario import Scenario as Scenario
    from celery_saga.testing.store_contract import StoreContract as StoreContract

_HOME_OF = {
    "EffectLog": "kit.effects",
    "Run": "kit.run",
    "SagaKit": "kit.kit",
    "Scenario": "kit.scenario",
    "StoreContract": "store_contract",
    "VirtualClock": "kit.clock",
    "assert_rolls_back_everywhere": "kit.everywhere",
    "given": "kit.kit",
}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
