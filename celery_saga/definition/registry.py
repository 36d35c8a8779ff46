"""Committed sagas by their names, for the workers that start one on request.

The references are weak: a saga that is not used any more is not found. A worker finds the sagas
that are committed while a module is imported, because every process that imports the module has
them. Other sagas are found only in the process that made them.
"""

from __future__ import annotations

import threading
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects by name; several may have the same name."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[T, tuple[str, bool]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def add(self, name: str, item: T, importable: bool) -> None:
        """Register ``item``.

        Args:
            importable: whether every process that imports the same modules has it.
        """
        with self._lock:
            self._known[item] = name, importable

    def named(self, name: str, importable: bool = True) -> list[T]:
        """Return all of that name, the newest last.

        Args:
            importable: leave out those that only this process has.
        """
        with self._lock:
            known = list(self._known.items())
        return [item for item, (given, good) in known if given == name and (good or not importable)]

    def every(self) -> list[T]:
        """Return all of them, the newest last."""
        with self._lock:
            return list(self._known)
