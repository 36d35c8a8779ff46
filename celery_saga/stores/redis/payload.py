"""What the envelopes for a Redis store hold: commands that its scripts carry out with a save."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from celery_saga.core.ports import Envelope
from celery_saga.errors import PublishRefused

#: A broker's command, its key and its value.
Push = tuple[str, str, Any]


@dataclass(frozen=True)
class Pushes:
    """Messages for a broker on the store's server.

    Args:
        database: number of the broker's database.
        pushes: the broker's commands, in order.
    """

    database: int
    pushes: Sequence[Push]


@dataclass(frozen=True)
class Result:
    """A settled saga's result, for a backend in the store's own database.

    Args:
        commands: each without its last argument, which is the text.
        before: the text, or the part of it before the context.
        after: the part behind the context; ``None``: it is not in the text.
    """

    commands: Sequence[Sequence[str]]
    before: str
    after: str | None = None


def payloads(batch: Iterable[Envelope], endpoint: str) -> list[Pushes | Result]:
    """What the envelopes for this endpoint hold; the others are left out."""
    return [envelope.payload for envelope in batch if envelope.endpoint == endpoint]


def messages(found: Iterable[Pushes | Result], own: int) -> list[Any]:
    """All messages, as the scripts take them: own database, broker's database, commands.

    Args:
        own: number of the store's database.

    Raises:
        PublishRefused: they are for more than one database.
    """
    pushes = [each for each in found if isinstance(each, Pushes) and each.pushes]
    if not pushes:
        return []
    if len({each.database for each in pushes}) > 1:
        raise PublishRefused("the messages of one save are for brokers in different databases")
    parts = [part for each in pushes for push in each.pushes for part in push]
    return [own, pushes[0].database, *parts]


def result(found: Iterable[Pushes | Result]) -> list[Any]:
    """The result, as the scripts take it; there is one at most."""
    for each in found:
        if isinstance(each, Result):
            commands = [part for command in each.commands for part in (len(command), *command)]
            return [each.before, "" if each.after is None else "1", each.after or "", *commands]
    return []
