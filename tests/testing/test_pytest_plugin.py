"""The plugin for pytest: its fixtures, and what it costs projects that do not use them."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from celery_saga import testing

ROOT = Path(__file__).parents[2]
PLUGIN = "celery_saga.testing.pytest_plugin"

PROJECT = """
import pytest
from celery import Celery
from celery_saga import Saga, SagaManager

app = Celery("shop", broker="redis://nowhere.invalid")
SagaManager(app)
log = None


@app.task
def reserve():
    log.did("reserve")


@app.task
def release(careless=False):
    if not careless:
        log.compensated("reserve")


@app.task
def charge():
    pass


checkout = Saga("checkout", app=app)
checkout.local_step(reserve).on_failure(release)
checkout.local_step(charge, read_only=True)
checkout.commit()


@pytest.fixture(autouse=True)
def doubles(effect_log):
    global log
    log = effect_log


def test_completes(saga_kit, saga_clock, effect_log):
    saga_kit.given(checkout).options(countdown=60).expect_completed()
    assert saga_clock.elapsed == 60
    assert [effect.what for effect in effect_log.left] == ["reserve"]


def test_rolls_back(saga_kit):
    saga_kit.given(checkout).step("charge").fails().expect_compensated("reserve")


def test_leaves_something(saga_kit):
    careless = saga_kit.given(checkout).context(careless=True)
    careless.step("charge").fails().expect_compensated("reserve")
"""

#: A project that has the package installed, and nothing to do with sagas.
OTHER = """
import sys

def test_nothing_was_imported():
    assert "celery_saga.testing.pytest_plugin" in sys.modules
    names = ("celery", "kombu", "billiard", "redis", "celery_saga.core", "celery_saga.testing.kit")
    assert not [name for name in names if name in sys.modules]
"""


def pytest_run(folder: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_project.py").write_text(source)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", "-q", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_fixtures_share_a_clock_and_a_log(tmp_path: Path) -> None:
    done = pytest_run(tmp_path, PROJECT)
    assert "3 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "ERROR at teardown of test_leaves_something" in done.stdout
    assert "is left, and its saga was rolled back" in done.stdout


def test_a_project_without_sagas_pays_nothing(tmp_path: Path) -> None:
    done = pytest_run(tmp_path, OTHER)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_fixtures_are_listed(tmp_path: Path) -> None:
    done = pytest_run(tmp_path, OTHER, "--fixtures")
    for name in ("saga_kit", "effect_log", "saga_clock"):
        assert f"\n{name} -- " in done.stdout, done.stdout


def test_pytest_finds_it() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    entry = config["options.entry_points"]["pytest11"]
    assert entry.split() == ["celery_saga", "=", PLUGIN]
    import_module(PLUGIN)


@pytest.mark.parametrize("name", testing.__all__)
def test_each_name_is_there(name: str) -> None:
    assert getattr(testing, name).__name__ == name
    assert name in dir(testing)


def test_no_other_name_is() -> None:
    assert not hasattr(testing, "nothing")
