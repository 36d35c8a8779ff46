"""Parts of an execution, for the common case that a step requires no more than them.

A worker that claims a step reads that step, the next one, and the context keys that the next
message requires. As long as the step succeeds nothing else is read, however many steps the saga
has and however large its context is. An access to a part that was not read raises
:class:`NotLoaded`, and the whole execution is read then.
"""

from __future__ import annotations

from typing import Any, NoReturn


class NotLoaded(Exception):
    """An access to a part that a partial execution does not hold.

    It is not a LookupError, because that would look like a missing key.
    """


class Unread(tuple[Any, ...]):
    """Replaces a history that was not read; only what is appended to it is known."""

    def __iter__(self) -> NoReturn:
        raise NotLoaded("the history")

    def __add__(self, more: tuple[Any, ...]) -> Unread:
        return Unread((*self.appended, *more))

    @property
    def appended(self) -> tuple[Any, ...]:
        """The entries that were appended to it."""
        return tuple(super().__iter__())

    def added_since(self, before: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the entries that were appended after it was ``before``."""
        return self.appended[len(before) :]


UNREAD: tuple[Any, ...] = Unread()
