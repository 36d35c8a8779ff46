"""Counts the round trips of each worker process.

The server's own counters do not separate a pool process from the worker's main process. So workers
count what redis-py sends, one request being one call however many commands a pipeline holds, and
keep the count in a file that the driver maps. It costs all variants the same, below a microsecond.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from redis.connection import AbstractConnection

_NUMBER = struct.Struct("<Q")


class Counter:
    """The count of one process, in a file named after its process id."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.begin()

    def begin(self) -> None:
        """Start from nothing, in a file of this process's own."""
        self._value = 0
        with open(Path(self._folder, str(os.getpid())), "w+b") as file:
            file.write(_NUMBER.pack(0))
            file.flush()
            self._map = mmap.mmap(file.fileno(), _NUMBER.size)

    def add(self) -> None:
        """One more."""
        self._value += 1
        _NUMBER.pack_into(self._map, 0, self._value)


def count_into(folder: str, *, apart_from: str) -> None:
    """Count this process's round trips, and those of the processes it forks.

    Args:
        folder: where the counts go.
        apart_from: URL of a server whose round trips do not count.
    """
    counter, other = Counter(folder), urlparse(apart_from).port
    os.register_at_fork(after_in_child=counter.begin)
    send: Any = AbstractConnection.send_packed_command

    def counted(self: Any, command: Any, *args: Any, **kwargs: Any) -> Any:
        if self.port != other:
            counter.add()
        return send(self, command, *args, **kwargs)

    AbstractConnection.send_packed_command = counted  # type: ignore[method-assign]


def read(folder: Path) -> dict[int, int]:
    """Round trips so far by process id."""
    found = {}
    for file in folder.iterdir():
        content = file.read_bytes()
        if len(content) == _NUMBER.size:
            found[int(file.name)] = int(_NUMBER.unpack(content)[0])
    return found
