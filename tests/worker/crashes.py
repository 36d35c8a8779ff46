"""The words of the crash tables: where a process dies, and what the saga's bodies did.

Places are those of :mod:`tests.worker.apps.crashing`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.worker.harness import ROOT

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


def run_clients(site: Any, asked: Sequence[tuple[str, ...]]) -> list[int]:
    """Exit codes of processes of which each asks one thing of one saga.

    Args:
        asked: what, the saga's id, and an exported execution if one is to be taken in.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.worker.apps.crashing_client"],
        input=json.dumps([(*each, "")[:3] for each in asked]),
        env={**os.environ, "PYTHONPATH": str(ROOT), **site.environment()},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    found: list[int] = json.loads(done.stdout)
    return found
