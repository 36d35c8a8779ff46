"""Committed sagas by their names, for the workers that are told to start one.

They are held weakly: a saga that nobody can use any more is not found. A worker finds those that
are committed while a module is imported, because every process that imports the module has them;
others are only found in the process that made them.
"""

from __future__ import annotations

import threading
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects by name, several of one name among them."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[T, tuple[str, bool]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def add(self, name: str, item: T, importable: bool) -> None:
        """Make ``item`` known.

        Args:
            importable: whether every process has it that imports the same modules.
        """
        with self._lock:
            self._known[item] = name, importable

    def named(self, name: str, importable: bool = True) -> list[T]:
        """All of that name, the newest last.

        Args:
            importable: leave out those that only this process has.
        """
        with self._lock:
            known = list(self._known.items())
        return [item for item, (given, good) in known if given == name and (good or not importable)]

    def every(self) -> list[T]:
        """All of them, the newest last."""
        with self._lock:
            return list(self._known)
