"""What the tests of definitions share: real apps, real imports, fresh interpreters."""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import Celery

from celery_saga import SagaManager
from celery_saga.core.plan import Call, Plan
from celery_saga.definition.builder import SagaDefinition
from celery_saga.definition.planner import build_plan

ROOT = Path(__file__).parent.parent.parent

_numbers = itertools.count(1)


def new_app(main: str = "shop", **conf: Any) -> Celery:
    """An app of its own, ready for sagas; nothing connects to anything."""
    app = Celery(main, broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(conf)
    SagaManager(app)
    return app


def plan_of(saga: SagaDefinition, app: Celery | None = None) -> Plan:
    """The plan of a saga which may still lack its commit."""
    if not saga.committed:
        saga.commit()
    return build_plan(saga, app or saga.app)  # type: ignore[attr-defined]


def call_of(saga: SagaDefinition, app: Celery | None = None) -> Call:
    """The action of a saga's first step."""
    return plan_of(saga, app).steps[0].action


class Importer:
    """Writes modules into a folder and really imports them, each under a name of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, source: str, name: str = "") -> str:
        """Write a module and return its name."""
        name = name or f"temporary_{os.getpid()}_{next(_numbers)}"
        (self.folder / f"{name}.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        return name

    def load(self, source: str, name: str = "") -> ModuleType:
        """Write a module and import it."""
        return importlib.import_module(self.write(source, name))

    def load_again(self, module: ModuleType) -> ModuleType:
        """Import a module as if for the first time."""
        del sys.modules[module.__name__]
        return importlib.import_module(module.__name__)

    def run(self, *args: str, **env: str) -> str:
        """What a new Python interpreter prints; it finds this library and this folder's modules."""
        done = subprocess.run(
            [sys.executable, *args],
            env={**os.environ, "PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT}", **env},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run_code(self, source: str, **env: str) -> str:
        """What a piece of code prints in a new interpreter."""
        return self.run("-c", textwrap.dedent(source), **env)


@pytest.fixture
def importer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Importer:
    """An :class:`Importer` on a folder of this test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return Importer(tmp_path)
