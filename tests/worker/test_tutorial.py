"""The tutorial, pasted unchanged into an empty folder, with a real server and a real worker."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_saga.testing.processes import ManagedProcess
from tests.helpers import wait_for
from tests.worker.harness import ROOT

pytestmark = pytest.mark.worker

TEXT = (ROOT / "docs" / "tutorial.md").read_text()

#: The programs that a reader leaves running in a terminal, and how they say that they are up.
RUNNING = {"python server.py": "Valkey is running", "celery -A shop worker": " ready."}

KILL = 'pkill -9 -f "celery -A shop worker"'


def files() -> dict[str, str]:
    """The files that a reader creates, by name."""
    return dict(
        re.findall(r"[Cc]reate\s+the\s+file\s+`([\w.]+)`[^`]*```python\n(.*?)```", TEXT, re.DOTALL)
    )


def blocks() -> Iterator[tuple[str, str]]:
    """The blocks of commands in their order, each with the output that follows, if any."""
    found = re.findall(r"^```(sh|text)\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE)
    for index, (kind, block) in enumerate(found):
        if kind == "sh":
            after = found[index + 1] if index + 1 < len(found) else ("", "")
            yield block, after[1] if after[0] == "text" else ""


class Terminals:
    """What a reader does: programs that run on, commands, and a kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        self.running: dict[str, ManagedProcess] = {}

    def arguments(self, command: str) -> list[str]:
        words = shlex.split(command)
        own = {"python": [sys.executable], "celery": [sys.executable, "-m", "celery"]}
        return [*own.get(words[0], words[:1]), *words[1:]]

    def start(self, name: str, command: str) -> None:
        log = self.folder / f"{len(self.running)}-{name.partition(' ')[0]}.log"
        log.unlink(missing_ok=True)
        process = ManagedProcess(self.arguments(command), env=self.env, cwd=self.folder, log=log)
        self.running[name] = process
        wait_for(lambda: RUNNING[name] in log.read_text() or not process.alive, timeout=40)
        assert process.alive, log.read_text()

    def run(self, command: str) -> str:
        """What a command prints."""
        name = next((each for each in RUNNING if command.startswith(each)), None)
        if name is not None:
            self.start(name, command)
            return ""
        if command == KILL:
            ledger = self.folder / "ledger.txt"
            wait_for(lambda: "order 3: packed" in ledger.read_text(), description="the last step")
            self.running["celery -A shop worker"].kill()
            return ""
        done = subprocess.run(
            self.arguments(command),
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def close(self) -> None:
        for process in reversed(self.running.values()):
            process.stop()


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[Terminals]:
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    found = Terminals(tmp_path)
    try:
        yield found
    finally:
        found.close()


def test_it_runs_unchanged_and_prints_what_it_says(terminals: Terminals) -> None:
    assert {*files()} == {"server.py", "shop.py", "start.py", "look.py"}
    said = []
    for block, expected in blocks():
        printed = [terminals.run(command) for command in block.splitlines()]
        if expected:
            assert "".join(printed) == expected, block
        said.append("".join(printed))

    stuck = next(text for text in said if "SAGA" in text)
    assert "order-4" in stuck
    assert "STUCK" in stuck
    assert "the payment gateway does not answer" in stuck
