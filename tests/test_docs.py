"""What the documents say exists, exists."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import runpy
from collections.abc import Iterator
from configparser import ConfigParser
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import FunctionType

import pytest

import celery_saga
from celery_saga import errors
from celery_saga.core.execution import SagaStatus, StepStatus
from celery_saga.core.state import SETTLED
from celery_saga.definition.operations import CallOptions, LocalOptions
from celery_saga.messaging.outcome import STATES
from celery_saga.settings import DEFAULTS
from tests.core.test_decide import TABLE as TRANSITIONS
from tests.test_architecture import FLOORS

ROOT = Path(__file__).resolve().parents[1]

_TEST = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


def named() -> Iterator[tuple[str, str, str]]:
    """Document, file and name (``test_x`` or ``TestY::test_x``) of each test that is named."""
    for document in sorted((ROOT / "docs").rglob("*.md")):
        for file, name in _TEST.findall(document.read_text()):
            yield document.relative_to(ROOT / "docs").as_posix(), file, name


@cache
def defined_in(file: str) -> frozenset[str]:
    """The tests that a file defines."""
    path = ROOT / file
    if not path.exists():
        return frozenset()
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names = {part.name for part in node.body if hasattr(part, "name")}
            found |= names | {f"{node.name}::{name}" for name in names}
    return frozenset(name for name in found if name.rpartition("::")[2].startswith("test_"))


@pytest.mark.parametrize(("document", "file", "name"), sorted(set(named())))
def test_a_named_test_exists(document: str, file: str, name: str) -> None:
    assert name in defined_in(file), f"docs/{document} names {file}::{name}"


def test_every_promise_has_a_file() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    text = text.partition("## The promises")[2].partition("\n## ")[0]
    promised = {int(number) for number in re.findall(r"^(\d+)\. ", text, re.MULTILINE)}
    files = (ROOT / "tests" / "promises").glob("test_*.py")

    assert promised == {int(file.name.split("_")[1]) for file in files}
    assert promised == set(range(1, 19))


def test_every_row_of_the_failure_table_names_a_test() -> None:
    _, _, text = (ROOT / "docs" / "guarantees.md").read_text().partition("## The failure table")
    rows = [
        line
        for line in text.partition("\n## ")[0].splitlines()
        if line.startswith("| ") and not line.startswith("| what |")
    ]
    assert len(rows) > 40
    assert [row for row in rows if not _TEST.search(row)] == []


#: Changes of a step's status that the diagram leaves out.
LEFT_OUT = {
    ("FAILED", "COMPENSATING"): "an effect came late",
    ("PENDING", "COMPENSATING"): "an effect came late",
    ("WAITING", "COMPENSATING"): "as of a step that is running",
    ("WAITING", "FAILED"): "as of a step that is running",
    ("SUCCEEDED", "COMPENSATION_FAILED"): "an input of its compensation is missing",
    ("UNKNOWN", "RUNNING"): "an operator's retry, as of one that failed",
}


def happening() -> Iterator[tuple[str, str]]:
    """Each change of a step's status in the table of the state machine."""
    for row in TRANSITIONS:
        seen = row.play().seen
        for before, after in pairwise(seen):
            for old, new in zip(before.steps, after.steps, strict=True):
                if old.status is not new.status or new.epoch > old.epoch > 0:
                    yield old.status.value, new.status.value


def test_the_diagram_of_a_steps_life_is_the_state_machines() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    (diagram,) = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    drawn = set(re.findall(r"^    (\w+) --> (\w+)", diagram, re.MULTILINE))
    assert {name for edge in drawn for name in edge} == {status.value for status in StepStatus}
    found = {edge for edge in happening() if edge != ("COMPENSATING", "COMPENSATING")}
    assert drawn == found - LEFT_OUT.keys()
    assert found >= LEFT_OUT.keys()


def migrating() -> str:
    return (ROOT / "docs" / "migrating-from-minos.md").read_text()


def test_the_sample_is_python_and_imports_what_there_is() -> None:
    (sample,) = re.findall(r"```python\n(.*?)```", migrating(), re.DOTALL)
    for node in ast.walk(ast.parse(sample)):
        if isinstance(node, ast.ImportFrom) and node.module == "celery_saga":
            assert all(hasattr(celery_saga, alias.name) for alias in node.names)


def test_the_errors_that_stay_are_there() -> None:
    table = migrating().split("| error in Minos | here |")[1].split("\n\n")[0]
    names = {
        name for row in table.splitlines() for name in re.findall(r"`(\w+Exception)`", row[:600])
    }
    assert len(names) > 12
    assert all(hasattr(celery_saga, name) for name in names)


README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [
    *PAGES,
    *ROOT.glob("*.md"),
    ROOT / "example_project/README.md",
    ROOT / "benchmarks/README.md",
]

_CODE = re.compile(r"```.*?```", re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def path_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def links_of(page: Path) -> list[str]:
    return _LINK.findall(_CODE.sub("", page.read_text()))


@cache
def anchors_of(page: Path) -> frozenset[str]:
    """The anchors that GitHub and its like give to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _CODE.sub("", page.read_text()), re.MULTILINE)
    bare = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return frozenset(heading.replace(" ", "-") for heading in bare)


def rows_of(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    text = f"\n{(DOCS / page).read_text()}".split(f"\n{heading}\n", 1)[1]
    lines = [line for line in text.split("\n#")[0].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


class TestLinks:
    @pytest.mark.parametrize("page", TEXTS, ids=path_of)
    def test_every_relative_link_leads_to_a_file_and_a_heading(self, page: Path) -> None:
        broken = []
        for link in links_of(page):
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in anchors_of(target)):
                broken.append(link)
        assert broken == []

    def test_the_index_has_every_page(self) -> None:
        linked = {
            (DOCS / link.partition("#")[0]).resolve() for link in links_of(DOCS / "README.md")
        }
        assert set(PAGES) - {DOCS / "README.md"} <= linked

    def test_on_pypi_no_link_leads_nowhere(self) -> None:
        shown = runpy.run_path(str(ROOT / "setup.py"))["for_pypi"](README.read_text())
        links = _LINK.findall(shown)
        assert links
        assert all(link.startswith("https://") for link in links)
        assert "`docs/guarantees.md`" in shown
        assert "```mermaid" not in shown
        assert "![" not in shown


class TestReadme:
    def test_it_is_short(self) -> None:
        assert len(README.read_text().splitlines()) <= 200

    def test_its_commands_are_those_of_ci(self) -> None:
        script = (ROOT / ".ci" / "run").read_text()
        (test,) = re.findall(r"^    (python3 -m venv .* && \S*tox run)$", README.read_text(), re.M)
        (example,) = re.findall(
            r"^    python3 -m venv .* && (\S*tox run -e \w+)$", README.read_text(), re.M
        )
        assert test in script
        assert example in script


class TestSettings:
    def test_all_are_listed_with_their_defaults(self) -> None:
        rows = rows_of("reference/settings.md", "# Settings")[1:]
        listed = {names_in(row[0])[0]: ast.literal_eval(names_in(row[1])[0]) for row in rows}
        assert listed == DEFAULTS


class TestStatuses:
    def test_of_a_saga(self) -> None:
        rows = rows_of("reference/statuses.md", "## Of a saga")[1:]
        assert [names_in(row[0])[0] for row in rows] == [status.value for status in SagaStatus]
        for status, row in zip(SagaStatus, rows, strict=True):
            assert names_in(row[2]) == [STATES[status]]
            assert (row[3] == "yes") is (status in SETTLED)

    def test_of_a_step(self) -> None:
        rows = rows_of("reference/statuses.md", "## Of a step")[1:]
        assert [names_in(row[0])[0] for row in rows] == [status.value for status in StepStatus]

    def test_the_diagram_is_the_state_machines(self) -> None:
        text = (DOCS / "reference" / "statuses.md").read_text()
        drawn = set(re.findall(r"^    (\w+) --> (\w+)", text, re.MULTILINE))
        assert drawn == set(changes())


def changes() -> Iterator[tuple[str, str]]:
    """Each change of a saga's status in the table of the state machine."""
    for row in TRANSITIONS:
        for before, after in pairwise(row.play().seen):
            if before.status is not after.status:
                yield before.status.value, after.status.value


class TestOptionsOfAStep:
    def test_all_are_listed(self) -> None:
        rows = rows_of("reference/steps.md", "## Options of a step")
        listed = [name for row in rows for name in names_in(row[0])]
        assert sorted(listed) == sorted(LocalOptions.__optional_keys__)

    def test_those_of_a_compensation(self) -> None:
        text = (DOCS / "reference" / "steps.md").read_text()
        (sentence,) = re.findall(r"`\.on_failure\(task, \.\.\.\)` takes ([^.]+)\.", text)
        rows = rows_of("reference/steps.md", "## Options of a step")
        of_messages = [name for row in rows[-3:] for name in names_in(row[0])]
        assert {*names_in(sentence), *of_messages} == {*CallOptions.__optional_keys__, "parameters"}


#: Every exception, other names included.
ERRORS = sorted(
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, (errors.SagaError, Warning))
)


def exceptions_listed() -> dict[str, list[str]]:
    """The exceptions of the reference, other names included, with their attributes."""
    found = {}
    for line in (DOCS / "reference" / "exceptions.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `") and names_in(cells[0])[0] in ERRORS:
            for name in names_in(cells[0]):
                found[name] = names_in(cells[1]) if len(cells) == 3 else []
    return found


def attributes_of(error: type[BaseException]) -> set[str]:
    """What the instances of an exception have beside ``args``: what its constructor takes."""
    made = error.__init__  # of Exception itself it has no signature
    taken = inspect.signature(made).parameters if isinstance(made, FunctionType) else ()
    own = set(taken) - {"self"}
    public = {name for name in dir(error) if name[0] != "_" and name not in dir(Exception)}
    return own | public


class TestExceptions:
    def test_all_are_listed(self) -> None:
        assert sorted(exceptions_listed()) == ERRORS

    @pytest.mark.parametrize("name", ERRORS)
    def test_with_their_attributes(self, name: str) -> None:
        assert set(exceptions_listed()[name]) == attributes_of(getattr(errors, name))

    def test_what_is_said_of_their_bases(self) -> None:
        text = (DOCS / "reference" / "exceptions.md").read_text()
        said = re.findall(r"^\| `(\w+)`.* An? `(\w+)` \|$", text, re.MULTILINE)
        assert len(said) > 6
        for name, base in said:
            assert issubclass(
                getattr(errors, name), getattr(errors, base, getattr(builtins, base, ()))
            )


class TestApi:
    TEXT = (DOCS / "reference" / "api.md").read_text()

    def test_every_public_name_is_listed(self) -> None:
        named = set(re.findall(r"\w+", " ".join(names_in(self.TEXT)))) | {*exceptions_listed()}
        assert set(celery_saga.__all__) <= named

    @pytest.mark.parametrize(
        ("heading", "cls"),
        [("## Sagas", celery_saga.Saga), ("## The manager", celery_saga.SagaManager)],
    )
    def test_every_public_method_is_listed_and_exists(self, heading: str, cls: type) -> None:
        rows = rows_of("reference/api.md", heading)
        own = [
            row[0] for row in rows if f"`{cls.__name__}." in row[0] or f" {cls.__name__}." in row[0]
        ]
        listed = set(re.findall(r"\.(\w+)", " ".join(own)))
        public = {name for name in dir(cls) if not name.startswith("_")}
        assert listed <= public | {"app"}
        assert public - listed <= {"own_app", "prepared", "warned"}

    @pytest.mark.parametrize("name", ["SagaExecution", "SagaStepExecution"])
    def test_the_attributes_of_a_run_exist(self, name: str) -> None:
        (sentence,) = re.findall(rf"^Of a `{name}`: (.*?)\n\n", self.TEXT, re.DOTALL | re.MULTILINE)
        cls = getattr(celery_saga, name)
        known = {*dir(cls), *cls.__dataclass_fields__}
        assert {each.removesuffix("()") for each in names_in(sentence)} <= known

    def test_the_extras_are_those_of_the_distribution(self) -> None:
        config = ConfigParser()
        config.read(ROOT / "setup.cfg")
        rows = rows_of("reference/api.md", "## Extras of the distribution")[1:]
        assert {names_in(row[0])[0] for row in rows} == {*config["options.extras_require"]}

    def test_the_members_of_a_result_are_listed_and_exist(self) -> None:
        rows = rows_of("reference/sagas.md", "## `SagaResult`")[1:]
        listed = {name.partition("(")[0] for row in rows for name in names_in(row[0])}
        public = {name for name in dir(celery_saga.SagaResult) if not name.startswith("_")}
        own = {"id", "created"}  # set in the constructor
        assert listed <= public | own
        assert public | own <= listed | {"TimeoutError", "supports_native_join", "maybe_reraise"}

    def test_the_options_of_a_start_are_listed(self) -> None:
        rows = rows_of("reference/sagas.md", "## Starting")[1:]
        listed = [name for row in rows for name in names_in(row[0])]
        taken = inspect.signature(celery_saga.Saga.apply_async).parameters.values()
        assert sorted(listed) == sorted(
            each.name for each in taken if each.kind is each.KEYWORD_ONLY
        )


def test_the_floors_are_those_of_the_architecture() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", text, re.MULTILINE)
    listed = {int(number) - 1: set(names_in(units)) for number, units in rows}
    private = {"_version", "__init__"}
    assert listed == {number: units - private for number, units in enumerate(FLOORS)}


#: All public names of ``minos.saga`` 0.7.0.
MINOS = """
SagaContext ConditionalSagaStep ElseThenAlternative IfThenAlternative LocalSagaStep
RemoteSagaStep Saga SagaOperation SagaStep AlreadyCommittedException AlreadyOnSagaException
EmptySagaException EmptySagaStepException MultipleElseThenException MultipleOnErrorException
MultipleOnExecuteException MultipleOnFailureException MultipleOnSuccessException SagaException
SagaExecutionAlreadyExecutedException SagaExecutionException SagaExecutionNotFoundException
SagaFailedCommitCallbackException SagaFailedExecutionException
SagaFailedExecutionStepException SagaNotCommittedException SagaNotDefinedException
SagaPausedExecutionStepException SagaResponseException SagaRollbackExecutionException
SagaRollbackExecutionStepException SagaStepException SagaStepExecutionException
UndefinedOnExecuteException ConditionalSagaStepExecution DatabaseSagaExecutionRepository
Executor LocalExecutor LocalSagaStepExecution RemoteSagaStepExecution RequestExecutor
ResponseExecutor SagaExecution SagaExecutionDatabaseOperationFactory SagaExecutionRepository
SagaStatus SagaStepExecution SagaStepStatus TransactionCommitter SagaManager SagaRequest
SagaResponse SagaResponseStatus transactional_command SagaService get_service_name
"""


def test_every_name_of_the_original_is_here_or_has_a_line() -> None:
    page = (ROOT / "docs" / "migrating-from-minos.md").read_text()
    _, _, section = page.partition("## All names")
    rows = re.findall(r"^\| (`.+?) \| (.+) \|$", section.partition("\n## ")[0], re.MULTILINE)
    listed = [(name, here) for names, here in rows for name in re.findall(r"`(\w+)`", names)]
    names = re.findall(r"\w+", MINOS)
    assert len(names) == 56
    assert sorted(name for name, _ in listed) == sorted(names)
    same = [name for name, here in listed if here.startswith("the same")]
    assert [name for name in same if not hasattr(celery_saga, name)] == []
    absent = [name for name, here in listed if here.startswith("not available")]
    assert [name for name in absent if hasattr(celery_saga, name)] == []
