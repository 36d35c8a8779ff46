"""The shape of the package: arrows point down, files and functions stay small, errors travel."""

from __future__ import annotations

import ast
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from celery import Celery

import celery_saga
from celery_saga import errors
from tests.architecture import (
    FILES,
    PACKAGE,
    arrows,
    circles,
    figures,
    graph_of_modules,
    graph_of_units,
    imported,
    levels,
    tree,
    unit_of,
)
from tests.tiers import LEFT_TO_CI, ON_PREFORK, is_left_to_ci

#: The floors, from the ground up. A unit may import what is on its own floor or below; folders that
#: share a floor do not know each other.
FLOORS: Sequence[set[str]] = (
    {"_version", "errors", "settings", "signals"},
    {"core"},
    {"definition", "stores"},
    {"messaging"},
    {"runtime", "start"},
    {"worker"},
    {"saga", "result", "manager", "operators", "repository", "aio", "__init__"},
    {"ops", "testing", "contrib"},
)
FLOOR_OF = {unit: number for number, units in enumerate(FLOORS) for unit in units}
#: All but the exceptions, which each unit may import.
FOLDERS = {unit_of(name) for name in FILES if "." in name} - {"errors"}

#: Where Celery and kombu may be imported below the floor of messaging: what looks at users' tasks
#: and settings.
CELERY_BELOW = {
    "core.context.codec": {"kombu.utils", "kombu.utils.json"},
    "definition.discovery": {"celery"},
    "definition.drafts": {"celery"},
    "definition.planner": {"celery"},
    "definition.planning": {"celery", "kombu.compression"},
    "definition.strategies": {"celery"},
    "definition.tasks": {"celery"},
    "signals": {"celery.utils", "celery.utils.dispatch"},
    "stores.factory": {"celery"},
}
#: Where a driver of Redis may be imported.
REDIS = ("stores.redis", "stores.factory", "messaging.redis", "messaging.broker", "ops.doctor")
#: What the state machine may import.
DECIDES = (
    "core.decide",
    "core.events",
    "core.execution",
    "core.state",
    "core.plan",
    "core.steps",
    "core.context",
    "core.remote",
    "core.recovery.policy",  # times alone, in one place with those that are not decided upon
)

MAX_FILE, MAX_FUNCTION, MAX_FOLDER, MAX_NAMES = 400, 40, 14, 45
MAX_UNITS, MAX_LEVELS, MAX_ARROWS = 22, 12, 90


def under(name: str, *places: str) -> bool:
    """Whether a module is one of these, or in one of these folders."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def test_each_unit_has_a_floor() -> None:
    assert {unit_of(name) for name in FILES} == set(FLOOR_OF)


@pytest.mark.parametrize("name", FILES)
def test_arrows_point_down(name: str) -> None:
    own = unit_of(name)
    upward = set()
    for other in arrows(name):
        unit = unit_of(other)
        sideways = FLOOR_OF[unit] == FLOOR_OF[own] and unit != own and {unit, own} & FOLDERS
        if FLOOR_OF[unit] > FLOOR_OF[own] or sideways:
            upward.add(other)
    assert not upward, f"{name} imports {upward}"


def test_units_have_no_circles() -> None:
    assert circles(graph_of_units()) == []


def test_modules_have_no_circles() -> None:
    assert circles(graph_of_modules()) == []


@pytest.mark.parametrize("name", [name for name in FILES if under(name, "core.decide")])
def test_the_state_machine_imports_data_alone(name: str) -> None:
    assert {other for other in arrows(name) if not under(other, "errors", *DECIDES)} == set()


@pytest.mark.parametrize("name", [name for name in FILES if FLOOR_OF[unit_of(name)] <= 2])
def test_the_lower_floors_know_no_celery(name: str) -> None:
    foreign = {other for other in imported(name) if other.split(".")[0] in ("celery", "kombu")}
    allowed = {each for place in CELERY_BELOW if under(name, place) for each in CELERY_BELOW[place]}
    assert not {other for other in foreign if not under(other, *allowed)}


@pytest.mark.parametrize("name", [name for name in FILES if not under(name, *REDIS)])
def test_drivers_stay_in_their_folders(name: str) -> None:
    assert not {other for other in imported(name) if other.split(".")[0] == "redis"}


#: Who makes stores; all others know the protocol, and no class of a store.
MAKES_STORES = ("stores", "runtime")


@pytest.mark.parametrize("name", [name for name in FILES if not under(name, *MAKES_STORES)])
def test_no_module_asks_for_the_class_of_a_store(name: str) -> None:
    assert not arrows(name) & {"stores.memory", "stores.redis", "stores.redis.store"}


def test_the_ports_name_no_server() -> None:
    words = FILES["core.ports"].read_text().lower().replace('``"redis://host:6379/0"``', "")
    assert not [word for word in ("redis", "celery.", "sql", "lua") if word in words]


def folders() -> Iterator[Path]:
    yield from sorted({path.parent for path in FILES.values()} - {PACKAGE})


@pytest.mark.parametrize("folder", folders(), ids=lambda each: str(each.relative_to(PACKAGE)))
def test_folders_stay_small(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MAX_FOLDER


def test_the_house_stays_simple() -> None:
    graph = graph_of_units()
    assert len(graph) <= MAX_UNITS
    assert levels(graph) <= MAX_LEVELS
    assert sum(map(len, graph.values())) <= MAX_ARROWS


def test_the_figures(record_property: Callable[[str, object], None]) -> None:
    """They are shown at the end of a run, so that they can be compared."""
    record_property("architecture", figures())


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_stay_small(name: str) -> None:
    lines = FILES[name].read_text().count("\n")
    assert lines <= MAX_FILE, f"{name} has {lines} lines"
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{name}.{node.name} has {length} lines"


#: Celery's command line imports it at each start, so that it imports what it needs when called.
LATE = {name for name in FILES if under(name, "ops.cli")}


@pytest.mark.parametrize("name", sorted(FILES.keys() - LATE))
def test_nothing_is_imported_inside_functions(name: str) -> None:
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            late = [
                part for part in ast.walk(node) if isinstance(part, (ast.Import, ast.ImportFrom))
            ]
            assert not late, f"{name}.{node.name} imports late"


@pytest.mark.parametrize("name", FILES)
def test_public_things_have_docstrings(name: str) -> None:
    bare = []
    for node in tree(name).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            continue
        if any("overload" in ast.dump(each) for each in node.decorator_list):
            continue  # the one that they are of has it
        if not node.name.startswith("_") and ast.get_docstring(node) is None:
            bare.append(node.name)
    assert ast.get_docstring(tree(name)), f"{name} has no docstring"
    assert not bare, f"{name}: {bare}"


def test_what_is_offered_is_there() -> None:
    assert sorted(celery_saga.__all__, key=str.lower) == sorted(
        set(celery_saga.__all__), key=str.lower
    )
    for name in celery_saga.__all__:
        assert getattr(celery_saga, name) is not None


def fresh(code: str) -> None:
    """Run code in a new interpreter, which must not fail."""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", ["errors", "worker.heartbeat", "ops.doctor"])
def test_a_module_can_be_imported_before_the_names(name: str) -> None:
    fresh(f"import celery_saga.{name}; celery_saga.SagaManager")


def test_the_package_gives_its_names_when_they_are_asked_for() -> None:
    fresh(
        "import sys, celery_saga\n"
        "assert celery_saga.__version__ and 'celery' not in sys.modules\n"
        "from celery_saga.saga import Saga\n"
        "assert 'Saga' in dir(celery_saga) and celery_saga.Saga is Saga\n"
        "assert 'Saga' in vars(celery_saga), 'it is looked up each time'\n"
        "from celery_saga import *\n"
        "assert SagaManager is celery_saga.manager.SagaManager\n"
        "assert not hasattr(celery_saga, 'nothing')\n"
    )


def test_type_checkers_see_the_same_names() -> None:
    seen = {
        f"{node.module}.{alias.name}".removeprefix("celery_saga.")
        for node in ast.walk(tree("__init__"))
        if isinstance(node, ast.ImportFrom) and node.module != "celery_saga.errors"
        for alias in node.names
    }
    homes = {f"{celery_saga._HOME_OF[name]}.{name}" for name in celery_saga.__all__[1:]}
    assert {each for each in homes if not each.startswith("errors.")} == seen - {
        "celery_saga.errors",
        "_version.__version__",
        "errors",
        "typing.TYPE_CHECKING",
        "typing.Any",
        "importlib.import_module",
    }


def test_the_original_librarys_errors_can_be_imported_too() -> None:
    named = {name for name in vars(errors) if name.endswith("Exception")}
    assert len(named) == 22
    assert not named & set(celery_saga.__all__)
    assert all(getattr(celery_saga, name) is getattr(errors, name) for name in named)


def test_what_is_offered_is_not_too_much() -> None:
    assert len(celery_saga.__all__) <= MAX_NAMES


def test_the_core_runs_without_celery() -> None:
    """Floors 0 to 2, imported alone, pull in neither celery nor kombu's transports."""
    code = (
        "import sys, types, pathlib\n"
        "package = types.ModuleType('celery_saga')\n"
        f"package.__path__ = [{str(PACKAGE)!r}]\n"
        "sys.modules['celery_saga'] = package\n"
        "import celery_saga.core.orchestrator, celery_saga.stores.redis.store\n"
        "import celery_saga.definition.builder\n"
        "assert 'celery' not in sys.modules, 'celery was imported'\n"
    )
    fresh(code)


def public_errors() -> list[BaseException]:
    """One instance of every error, with arguments that show mix-ups."""
    found = []
    for _, cls in inspect.getmembers(errors, inspect.isclass):
        if not issubclass(cls, errors.SagaError):
            continue
        own = "__init__" in vars(cls) or any(
            "__init__" in vars(base) for base in cls.__mro__ if base.__module__ == errors.__name__
        )
        count = len(inspect.signature(cls).parameters) if own else 1
        found.append(cls(*(f"argument {number}" for number in range(count))))
    return found


@pytest.mark.parametrize("error", public_errors(), ids=lambda error: type(error).__name__)
def test_errors_survive_pickle_and_celerys_json(error: BaseException) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.args, str(back)) == (type(error), error.args, str(error))
    backend = Celery("errors", backend="cache+memory://").backend
    stored = backend.decode(backend.encode(backend.prepare_exception(error, serializer="json")))
    again = backend.exception_to_python(stored)
    assert (type(again), again.args, str(again)) == (type(error), error.args, str(error))


@pytest.mark.parametrize("pattern", LEFT_TO_CI)
def test_what_is_left_to_ci_is_there(pattern: str) -> None:
    files, _, tests = pattern.partition("::")
    found = list(Path(__file__).parent.glob(files))
    assert found
    assert all(is_left_to_ci(path, test=tests) for path in found if path.is_file())
    for word in (each.strip("*") for each in tests.split("::")):
        assert all(word in path.read_text() for path in found)


@pytest.mark.parametrize("pattern", ON_PREFORK)
def test_rows_on_prefork_stay(pattern: str) -> None:
    found = list(Path(__file__).parent.glob(pattern))
    assert found
    assert all(is_left_to_ci(path, "threads") for path in found)
    assert not any(is_left_to_ci(path, "prefork") for path in found)
