"""Sagas by name: weak references, separate for importable and local sagas."""

from __future__ import annotations

import gc

from celery_saga import Saga
from celery_saga.definition.builder import SAGAS
from celery_saga.definition.registry import Registry


class Thing:
    pass


def test_things_are_found_by_name_newest_last() -> None:
    registry, things = Registry[Thing](), [Thing() for _ in range(4)]
    registry.add("a", things[0], True)
    registry.add("b", things[1], True)
    registry.add("a", things[2], True)
    registry.add("a", things[3], False)
    assert registry.named("a") == [things[0], things[2]]
    assert registry.named("a", importable=False) == [things[0], things[2], things[3]]
    assert registry.named("c") == []


def test_an_unreferenced_saga_is_not_found() -> None:
    registry = Registry[Thing]()
    registry.add("a", Thing(), True)
    gc.collect()
    assert registry.named("a") == []


def test_a_saga_is_known_once_it_is_committed() -> None:
    saga = Saga("registry, at run time", steps=["a.task"])
    assert SAGAS.named("registry, at run time", importable=False) == []
    saga.commit()
    assert SAGAS.named("registry, at run time", importable=False) == [saga]
    assert SAGAS.named("registry, at run time") == []
    assert SAGAS.named("registry, imported") == [IMPORTED]


def test_a_saga_without_a_name_is_not_known() -> None:
    saga = Saga(steps=["a.task"]).commit()
    assert saga not in SAGAS.named(saga.name, importable=False)


IMPORTED = Saga("registry, imported", steps=["a.task"]).commit()
