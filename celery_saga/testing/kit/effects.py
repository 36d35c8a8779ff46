"""The effects that a test's doubles have had, and in which order they were compensated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from celery_saga.core.info import SagaInfo, step_info


@dataclass(frozen=True)
class Effect:
    """One effect.

    Args:
        what: a name for it, such as ``"reserve"``.
        key: the idempotency key of the action that had it.
        saga_id: of the saga; empty: it was had outside of one.
    """

    what: str
    key: str
    saga_id: str = ""

    def __str__(self) -> str:
        return f"{self.what} ({self.key})"


class EffectLog:
    """Notes effects where a test's doubles have them, and finds what should not have happened.

    A double calls :meth:`did` when it really does something, and :meth:`compensated` when it
    really takes it back; a call that finds its work done already notes nothing. :meth:`check`
    then fails a test on

    - an effect that was had twice with one idempotency key,
    - a compensation of something that was not there, or was compensated already,
    - a compensation out of order: before that of an effect of the same saga that came later,
    - an effect that a saga has left although it was rolled back.

    Args:
        ordered: whether compensations must come in reverse order; not where a group has
            ``compensate_parallel=True``.
    """

    def __init__(self, *, ordered: bool = True) -> None:
        self._ordered = ordered
        self._left: list[Effect] = []
        self._seen: set[tuple[str, str]] = set()
        self._rolled_back: set[str] = set()
        #: What should not have happened, a line for each.
        self.problems: list[str] = []

    def did(self, what: str, key: str | None = None) -> None:
        """Note an effect.

        Args:
            what: a name for it.
            key: the action's idempotency key; by default that of the running step.

        Raises:
            ValueError: a key is missing, and no step runs.
        """
        info = step_info()
        effect = Effect(what, _key(key, info), _saga(info))
        if (what, effect.key) in self._seen:
            self.problems.append(f"{effect} was had twice with one idempotency key")
        self._seen.add((what, effect.key))
        self._left.append(effect)

    def compensated(self, what: str, key: str | None = None) -> None:
        """Note that an effect was compensated.

        Args:
            what: the name that :meth:`did` got.
            key: the action's key; by default the ``forward_key`` of the running compensation.

        Raises:
            ValueError: a key is missing, and no step runs.
        """
        info = step_info()
        key = _key(key, info)
        found = next((it for it in self._left if (it.what, it.key) == (what, key)), None)
        if found is None:
            was = "a second time" if (what, key) in self._seen else "though it had not happened"
            self.problems.append(f"{what} ({key}) was compensated {was}")
            return
        later = [it for it in self._left[self._left.index(found) + 1 :] if _same(it, found)]
        if later and self._ordered:
            self.problems.append(f"{found} was compensated before {later[-1]}, which came later")
        self._left.remove(found)

    @property
    def left(self) -> tuple[Effect, ...]:
        """The effects that exist now, in the order in which they were had."""
        return tuple(self._left)

    def rolled_back(self, saga_id: str) -> None:
        """Note that a saga has ended COMPENSATED; a run of the kit does so itself."""
        self._rolled_back.add(saga_id)

    def check(self) -> None:
        """Fail if something should not have happened.

        Raises:
            AssertionError: with a line for each.
        """
        left = [it for it in self._left if it.saga_id and it.saga_id in self._rolled_back]
        _fail([*self.problems, *(f"{it} is left, and its saga was rolled back" for it in left)])

    def expect_nothing_left(self) -> None:
        """Fail if an effect exists, or something should not have happened.

        Raises:
            AssertionError: with a line for each.
        """
        _fail([*self.problems, *(f"{effect} is left" for effect in self._left)])

    def clear(self) -> None:
        """Forget everything, between two parts of a test."""
        self._left.clear()
        self._seen.clear()
        self._rolled_back.clear()
        self.problems.clear()


def _fail(lines: Iterable[str]) -> None:
    text = "\n".join(lines)
    if text:
        raise AssertionError(text)


def _key(given: str | None, info: SagaInfo | None) -> str:
    """The key of an action: given, or that of the running step."""
    if given is None and info is None:
        raise ValueError("no step runs here: give the idempotency key of the action as key=")
    return str(given) if given is not None or info is None else info.forward_key


def _saga(info: SagaInfo | None) -> str:
    return "" if info is None else info.saga_id or ""


def _same(one: Effect, other: Effect) -> bool:
    return one.saga_id == other.saga_id
