"""The sample of two services: one runs sagas, the other one does not have this package."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import example_project

SERVICES = Path(example_project.__file__).parent / "services"


def test_the_stock_service_does_not_have_the_package() -> None:
    nodes = ast.walk(ast.parse((SERVICES / "stock.py").read_text()))
    imported = [
        name
        for node in nodes
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    ]
    assert imported == ["os", "redis", "celery"]


@pytest.mark.worker
def test_both_run_and_the_shelf_balances() -> None:
    root = SERVICES.parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "example_project.services"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(status 400 (ERROR): only 3 of MUG left)" in done.stdout
