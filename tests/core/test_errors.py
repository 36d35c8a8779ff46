"""Every error of the library: its place in the tree, its text, and that it survives a journey."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import pytest
from celery import Celery

from celery_saga import errors

ROW = re.compile(r"( +)(\w+)(?: \((?:= )?(\w+)\))?(?: {2,}(.*))?")


def drawn_tree() -> dict[str, tuple[str, str]]:
    """The tree in the module's docstring: name -> (name of the parent, further base or alias)."""
    assert errors.__doc__ is not None
    drawing = errors.__doc__.split("::\n\n")[1].split("\n\n")[0]
    tree: dict[str, tuple[str, str]] = {}
    above: list[str] = []
    for line in drawing.splitlines():
        found = ROW.fullmatch(line)
        assert found is not None, f"cannot read {line!r}"
        depth = len(found[1]) // 2 - 2
        assert depth <= len(above), f"{line!r} is too deep"
        del above[depth:]
        assert found[2] not in tree, f"{found[2]} is drawn twice"
        tree[found[2]] = (above[-1] if above else "", found[3] or "")
        above.append(found[2])
    return tree


TREE = drawn_tree()
CLASSES: list[type[errors.SagaError]] = [getattr(errors, name) for name in TREE]
each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def arguments(cls: type[BaseException]) -> tuple[Any, ...]:
    """Arguments for every parameter, the optional ones included."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    if any(param.kind is param.VAR_POSITIONAL for param in parameters):
        return ("a text, with 'quotes' and an é",)
    return tuple(
        number if param.annotation == "int" else f"some {param.name}"
        for number, param in enumerate(parameters, 41)
    )


class TestTree:
    def test_holds_every_public_error_of_the_module(self) -> None:
        public = {
            value.__name__
            for name, value in vars(errors).items()
            if isinstance(value, type) and issubclass(value, Exception) and name[0] != "_"
        }
        assert public - {"DefinitionWarning"} == set(TREE)

    @each_class
    def test_bases_are_as_drawn(self, cls: type[Exception]) -> None:
        parent, further = TREE[cls.__name__]
        expected = [parent] if parent else ["Exception"]
        if further and cls is not errors.SagaError:
            expected.append(further)
        assert [base.__name__ for base in cls.__bases__] == expected

    def test_aliases_are_as_drawn(self) -> None:
        assert errors.__doc__ is not None
        drawn = set(re.findall(r"\(= (\w+)\)", errors.__doc__))
        real = {
            name
            for name, value in vars(errors).items()
            if value in CLASSES and value.__name__ != name
        }
        assert drawn == real == {"SagaException", "SagaNotFound"}

    def test_the_warning_is_a_warning_and_no_error(self) -> None:
        assert issubclass(errors.DefinitionWarning, UserWarning)
        assert not issubclass(errors.DefinitionWarning, errors.SagaError)


def test_original_names_are_the_real_classes() -> None:
    assert errors.SagaException is errors.SagaError
    assert errors.SagaNotFound is errors.SagaExecutionNotFoundException


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.DefinitionError, ValueError),
        (errors.EmptySagaException, errors.DefinitionError),
        (errors.SagaNotCommittedException, errors.DefinitionError),
        (errors.AlreadyCommittedException, errors.DefinitionError),
        (errors.MultipleOnExecuteException, errors.SagaStepException),
        (errors.UnserializableValue, ValueError),
        (errors.MissingInput, LookupError),
        (errors.IllegalSagaId, ValueError),
        (errors.IllegalSagaId, errors.SagaExecutionException),
        (errors.BadStepResult, TypeError),
        (errors.SagaNotFound, LookupError),
        (errors.SagaCompensated, errors.SagaFailedExecutionException),
        (errors.SagaStuck, errors.SagaFailedExecutionException),
    ],
)
def test_an_except_clause_catches(cls: type[Exception], builtin: type[Exception]) -> None:
    with pytest.raises(builtin):
        raise cls(*arguments(cls))


class TestText:
    @each_class
    def test_constructor_arguments_are_args(self, cls: type[Exception]) -> None:
        assert cls(*arguments(cls)).args == arguments(cls)

    @each_class
    def test_names_every_argument(self, cls: type[Exception]) -> None:
        error = cls(*arguments(cls))
        assert [part for part in arguments(cls) if str(part) not in str(error)] == []

    @each_class
    def test_attributes_are_named_like_the_arguments(self, cls: type[Exception]) -> None:
        error = cls(*arguments(cls))
        assert tuple(vars(error).values()) in ((), arguments(cls))

    @each_class
    def test_reads_well_without_the_optional_arguments(self, cls: type[Exception]) -> None:
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        needed = [param for param in parameters if param.default is param.empty]
        text = str(cls(*arguments(cls)[: len(needed)]))
        assert text == text.strip(" :;")
        assert "''" not in text

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (
                errors.MissingInput("total", "pay", "shop.pay"),
                ["step 'pay'", "task 'shop.pay'", "needs 'total'", "context", "inputs="],
            ),
            (
                errors.MissingInput("('vm', 'ip')", "pay", "shop.pay"),
                ["step 'pay'", "task 'shop.pay'", "needs ('vm', 'ip')", "inputs="],
            ),
            (
                errors.MissingInput("vm.ip", "pay", "shop.pay"),
                ["needs 'vm.ip'", "path", "tuple", "('vm', 'ip')", "inputs="],
            ),
            (
                errors.UnserializableValue("context['a'][2]", "a set cannot be stored"),
                ["context['a'][2]: a set cannot be stored"],
            ),
            (
                errors.UnserializableValue("context['a']", "a set cannot be stored", "use a list"),
                ["context['a']: a set cannot be stored; use a list"],
            ),
            (
                errors.BadStepResult("charge", "a mapping", "int"),
                ["step 'charge'", "expected a mapping", "found int"],
            ),
            (
                errors.SagaCompensated("s-1", "charge", "CardDeclined: no"),
                ["saga 's-1'", "compensated", "step 'charge'", "CardDeclined: no"],
            ),
            (errors.SagaStuck("s-1", "refund"), ["saga 's-1'", "stuck", "step 'refund'"]),
        ],
        ids=str,
    )
    def test_of_errors_with_parts(self, error: Exception, words: list[str]) -> None:
        assert [word for word in words if word not in str(error)] == [], error

    def test_of_a_saga_that_failed_at_no_step(self) -> None:
        text = str(errors.SagaCompensated("s-1", "", "cancelled"))
        assert "cancelled" in text
        assert "step" not in text

    def test_a_path_that_is_a_tuple_needs_no_hint(self) -> None:
        assert "tuple" not in str(errors.MissingInput("('vm', 'ip')", "pay", "shop.pay"))


class TestJourney:
    @each_class
    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_pickle(self, cls: type[Exception], protocol: int) -> None:
        error = cls(*arguments(cls))
        assert_same(pickle.loads(pickle.dumps(error, protocol)), error)

    @each_class
    @pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy])
    def test_copy(self, cls: type[Exception], copying: Any) -> None:
        error = cls(*arguments(cls))
        assert_same(copying(error), error)

    @each_class
    def test_result_backend_with_json(self, cls: type[Exception], backend: Any) -> None:
        error = cls(*arguments(cls))
        stored = backend.encode(backend.prepare_exception(error, serializer="json"))
        assert_same(backend.exception_to_python(backend.decode(stored)), error)

    @each_class
    def test_result_backend_when_optional_arguments_were_left_out(
        self, cls: type[Exception], backend: Any
    ) -> None:
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        needed = [param for param in parameters if param.default is param.empty]
        error = cls(*arguments(cls)[: len(needed)])
        stored = backend.encode(backend.prepare_exception(error, serializer="json"))
        assert_same(backend.exception_to_python(backend.decode(stored)), error)


def assert_same(after: BaseException, before: BaseException) -> None:
    assert type(after) is type(before)
    assert list(after.args) == list(before.args)
    assert str(after) == str(before)
    assert vars(after) == vars(before)


@pytest.fixture(scope="module")
def backend() -> Any:
    """The result backend of a real app."""
    app = Celery("errors", backend="cache+memory://", set_as_current=False)
    app.conf.result_serializer = "json"
    return app.backend
