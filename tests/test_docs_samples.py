"""The Python samples of the documentation: all are Python, and most are run as they stand."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.sample_stage import ROOT, compiled, samples_of

PAGES = {
    page.relative_to(ROOT).as_posix(): page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if samples_of(page)
}

#: Pages whose samples need more than this package, or are run by tests of their own.
NOT_RUN = {
    "docs/barrier.md": "an SQL database; tests/barrier",
    "docs/how-to/django.md": "a Django project; tests/django has one",
    "docs/how-to/fastapi.md": "FastAPI",
    "docs/how-to/flask.md": "Flask",
    "docs/operators.md": "a stuck saga; tests/api/test_operators.py",
    "docs/tutorial.md": "files and terminals; tests/worker/test_tutorial.py",
}


def imports_of(sample: str) -> Iterator[tuple[str, str]]:
    """Module and name of what a sample imports of this package."""
    for node in ast.walk(ast.parse(sample)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("celery_saga"):
            yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize("page", PAGES)
def test_samples_are_python_and_import_what_there_is(page: str) -> None:
    for number, sample in enumerate(samples_of(PAGES[page]), 1):
        compiled(sample, f"{page}, sample {number}")
        for module, name in imports_of(sample):
            if ".django" not in module:  # it wants Django's settings; tests/django imports it
                assert hasattr(importlib.import_module(module), name), f"{page}: {module}.{name}"


@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOT_RUN])
def test_samples_run(page: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.sample_stage", page],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ran = [line for line in done.stdout.splitlines() if line.startswith(f"{page}, sample ")]
    assert len(ran) == len(samples_of(PAGES[page]))


def test_pages_that_are_not_run_are_there() -> None:
    assert NOT_RUN.keys() <= PAGES.keys()
