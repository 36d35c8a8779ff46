"""Times and foreign text, as an operator reads them."""

from __future__ import annotations

from datetime import datetime, timezone


def printable(text: str) -> str:
    """The text with all that could steer a terminal, or change how a line reads, written out."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def age(seconds: float) -> str:
    """``12s ago``, in the largest unit of which there are two."""
    return f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """``12s``, in the largest unit of which there are two."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0, int(seconds))}s"


def moment(at: float) -> str:
    """A store time in UTC, to a second."""
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
