"""The words of the crash tables: where a process dies, and what the saga's bodies did.

Places are those of :mod:`tests.worker.apps.crashing`.
"""

from __future__ import annotations

from typing import Any

#: What is done after a decision that sends a step, by way; where nothing is sent there is less.
SAVING = ("before save", "after save")
SENDING = {"one by one": (*SAVING, "before push", "after push"), "one script": SAVING}
WAYS = tuple(SENDING)


def whens(way: str, place: str) -> tuple[str, ...]:
    """All points of a place, which is an event and what its save does."""
    what = place.split()[-1]
    return SENDING[way] if what[0] in "fc" and what[1:].isdigit() else SAVING


def bodies(text: str) -> list[str]:
    """``a b c C B A``, forward and back, as the journal writes it."""
    return [f"{x.lower()}/{'c' if x.isupper() else 'f'}" for x in text.split()]


def order(site: Any, saga_id: str, *places: str) -> None:
    """Have the process that comes to a place die there."""
    if places:
        site.journal.client.sadd(f"die:{saga_id}", *places)


def died(site: Any, saga_id: str) -> bool:
    """Whether a process has died at each of the places."""
    return not site.journal.client.exists(f"die:{saga_id}")
