"""Finds the line of the user's code that a warning is about."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from celery_saga.errors import DefinitionWarning

_HERE = f"{Path(__file__).parent}{os.sep}"


class Line(NamedTuple):
    """A line of a source file."""

    file: str
    number: int


def users_line() -> Line:
    """Return the line outside of this package that the running call comes from."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return Line(frame.f_code.co_filename, frame.f_lineno) if frame else Line("<unknown>", 0)


def warn(text: str, line: Line) -> None:
    """Give a warning about a definition, as if it came from the user's own line."""
    warnings.warn_explicit(text, DefinitionWarning, line.file, line.number)
