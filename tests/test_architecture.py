"""The shape of the package: arrows point down, files and functions stay small, errors travel."""

from __future__ import annotations

import ast
import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from celery import Celery

import celery_saga
from celery_saga import errors
from tests.tiers import LEFT_TO_CI, is_left_to_ci

PACKAGE = Path(celery_saga.__file__).parent

#: The floor of each module; a folder's floor holds for what is in it.
FLOORS = {
    "_version": 0,
    "errors": 0,
    "masking": 0,
    "context": 0,
    "about": 3,
    "codec": 0,
    "messages": 0,
    "info": 0,
    "callables": 0,
    "declarations": 3,
    "plan": 0,
    "partial": 0,
    "values": 0,
    "patience": 0,
    "binding": 0,
    "options": 0,
    "operations": 0,
    "steps": 0,
    "definition": 0,
    "lines": 0,
    "layers": 0,
    "signatures": 0,
    "advice": 0,
    "drafts": 3,
    "registry": 0,
    "records": 0,
    "showing": 0,
    "failures": 0,
    "checkpoint": 0,
    "execution": 0,
    "claims": 0,
    "decide": 0,
    "repair": 0,
    "stores": 1,
    "dispatcher": 2,
    "errands": 2,
    "forks": 2,
    "orchestrator": 2,
    "importing": 2,
    "resends": 2,
    "sweep": 2,
    "settings": 3,
    "timing": 3,
    "broker": 3,
    "routes": 3,
    "inspection": 3,
    "strategies": 3,
    "planner": 3,
    "storage": 3,
    "dispatch": 3,
    "callbacks": 3,
    "announce": 3,
    "tasks": 3,
    "settlement": 3,
    "runtime": 3,
    "outbox": 3,
    "templates": 3,
    "headers": 3,
    "recording": 3,
    "retries": 3,
    "coroutines": 0,
    "delivery": 3,
    "endings": 3,
    "tracking": 3,
    "participant": 3,
    "hook": 3,
    "discovery": 3,
    "reports": 3,
    "answers": 3,
    "hosts": 3,
    "rates": 3,
    "agreement": 3,
    "neighbours": 2,
    "recovery": 3,
    "on_commit": 3,
    "awaiting": 3,
    "outcome": 3,
    "result": 3,
    "starting": 3,
    "saga": 3,
    "operators": 3,
    "manager": 3,
    "doctor": 4,
    "cli": 4,
    "contrib": 4,
    "testing": 4,
    "face": 4,
    "__init__": 4,
}

MAX_FILE, MAX_FUNCTION = 400, 40


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text())


def floor(name: str) -> int:
    return FLOORS[name.partition(".")[0]]


def type_checking_only(module: ast.Module) -> set[ast.AST]:
    found: set[ast.AST] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            found.update(child for part in node.body for child in ast.walk(part))
    return found


def imported(name: str) -> Iterator[str]:
    """Full names of the modules that a module imports when it runs."""
    skipped = type_checking_only(tree(name))
    for node in ast.walk(tree(name)):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}".removeprefix("celery_saga.")
                own = node.module.startswith("celery_saga") and inner in FILES
                yield f"celery_saga.{inner}" if own else node.module


def arrows(name: str) -> set[str]:
    """The package's own modules that a module imports."""
    found = {
        other.removeprefix("celery_saga.") if "." in other else "__init__"
        for other in imported(name)
        if other.split(".")[0] == "celery_saga"
    }
    return found - {name}


def test_every_module_has_a_floor() -> None:
    assert {name.partition(".")[0] for name in FILES} == set(FLOORS)


@pytest.mark.parametrize("name", FILES)
def test_arrows_point_down_or_sideways(name: str) -> None:
    upward = {other for other in arrows(name) if floor(other) > floor(name)}
    assert not upward, f"{name} (floor {floor(name)}) imports {upward}"


def test_there_are_no_circles() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in arrows(name):
                visit(other, (*path, name))
            done.add(name)

    for name in FILES:
        visit(name, ())


@pytest.mark.parametrize("name", [name for name in FILES if floor(name) <= 2])
def test_the_lower_floors_know_no_celery(name: str) -> None:
    foreign = {other for other in imported(name) if other.split(".")[0] in ("celery", "kombu")}
    allowed = {"kombu.utils", "kombu.utils.json"} if name == "codec" else set()
    assert foreign <= allowed


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_stay_small(name: str) -> None:
    lines = FILES[name].read_text().count("\n")
    assert lines <= MAX_FILE, f"{name} has {lines} lines"
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{name}.{node.name} has {length} lines"


#: Celery's command line imports it at each start, so that it imports what it needs when called.
LATE = {name for name in FILES if name.split(".")[0] == "cli"}


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


@pytest.mark.parametrize("name", ["errors", "recovery", "doctor"])
def test_a_module_can_be_imported_before_the_face(name: str) -> None:
    fresh(f"import celery_saga.{name}; celery_saga.SagaManager")


def test_the_package_gives_its_face_when_it_is_asked() -> None:
    fresh(
        "import sys, celery_saga\n"
        "assert celery_saga.__version__ and 'celery' not in sys.modules\n"
        "assert 'Saga' in dir(celery_saga) and celery_saga.Saga is celery_saga.face.Saga\n"
        "assert 'Saga' in vars(celery_saga), 'it is looked up each time'\n"
        "from celery_saga import *\n"
        "assert SagaManager is celery_saga.manager.SagaManager\n"
        "assert not hasattr(celery_saga, 'nothing')\n"
    )


def test_the_core_runs_without_celery() -> None:
    """Floors 0 to 2, imported alone, pull in neither celery nor kombu's transports."""
    code = (
        "import sys, types, pathlib\n"
        "package = types.ModuleType('celery_saga')\n"
        f"package.__path__ = [{str(PACKAGE)!r}]\n"
        "sys.modules['celery_saga'] = package\n"
        "import celery_saga.orchestrator, celery_saga.stores.redis, celery_saga.definition\n"
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
    found = list(Path(__file__).parent.glob(pattern))
    assert found
    assert all(is_left_to_ci(path) for path in found if path.is_file())
