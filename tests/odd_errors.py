"""Exceptions that users write, and that are hard to report; no assertions about the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LONG = 10_000_000


class StrRaises(Exception):
    def __str__(self) -> str:
        raise ValueError("no text of mine")


class ReprRaises(Exception):
    def __repr__(self) -> str:
        raise ValueError("no repr of mine")


class BothRaise(StrRaises, ReprRaises):
    pass


class StrExits(Exception):
    def __str__(self) -> str:
        raise SystemExit("out of here")


class StrForEver(Exception):
    def __str__(self) -> str:
        return str(self)


class StrIsNone(Exception):
    def __str__(self) -> str:
        return None  # type: ignore[return-value]


class Text(str):
    """A str whose own methods do not work."""

    def __getitem__(self, key: Any) -> str:
        raise IndexError("not mine")

    def encode(self, *args: Any) -> bytes:
        raise ValueError("not mine")

    def replace(self, *args: Any) -> str:  # type: ignore[override]
        raise ValueError("not mine")


class StrIsASubclass(Exception):
    def __str__(self) -> str:
        return Text("of a class of its own")


class RequiredKeywords(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class ManyArguments(Exception):
    def __init__(self, one: int, two: int, three: int) -> None:
        super().__init__()
        self.numbers = one, two, three

    def __str__(self) -> str:
        return "numbers {}, {} and {}".format(*self.numbers)


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("with a lambda", lambda: None)

    def __reduce__(self) -> Any:
        raise TypeError("never")


class NoModule(Exception):
    pass


NoModule.__module__ = None  # type: ignore[assignment]


class NumberedModule(Exception):
    pass


NumberedModule.__module__ = 7  # type: ignore[assignment]


class _Nameless(type):
    @property
    def __module__(cls) -> int:  # type: ignore[override]
        return 7


class OddMeta(Exception, metaclass=_Nameless):
    pass


class Unequal(Exception):
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not to be compared")

    __hash__ = None  # type: ignore[assignment]


class Untrue(Exception):
    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")

    def __len__(self) -> int:
        raise RuntimeError("of no length")


class NoAttributes(Exception):
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


class NoClass(Exception):
    @property
    def __class__(self) -> Any:
        raise RuntimeError("of no class")


def _chain() -> Exception:
    error: Exception = StrRaises("the first")
    for number in range(50):
        following = ValueError(f"number {number}")
        following.__cause__, error = error, following
    return error


def _circle() -> Exception:
    one, two = ValueError("one"), StrRaises("two")
    one.__cause__, two.__cause__ = two, one
    return one


#: Name, what makes it, and what must stand in its record: a part of the type, a part of the text.
ODD: dict[str, tuple[Callable[[], Exception], str, str]] = {
    "str raises": (StrRaises, "StrRaises", "ValueError"),
    "repr raises": (lambda: ReprRaises("x"), "ReprRaises", "x"),
    "both raise": (BothRaise, "BothRaise", "ValueError"),
    "str ends the process": (StrExits, "StrExits", "SystemExit"),
    "str calls itself": (StrForEver, "StrForEver", "RecursionError"),
    "str gives None": (StrIsNone, "StrIsNone", "TypeError"),
    "str gives a subclass": (StrIsASubclass, "StrIsASubclass", "of a class of its own"),
    "its argument's repr raises": (lambda: ValueError(ReprRaises(), 1), "ValueError", "ValueError"),
    "required keywords": (lambda: RequiredKeywords(code=3), "RequiredKeywords", "code 3"),
    "many arguments": (lambda: ManyArguments(1, 2, 3), "ManyArguments", "numbers 1, 2 and 3"),
    "not to be pickled": (Unpicklable, "Unpicklable", "with a lambda"),
    "long": (lambda: ValueError("x" * LONG), "builtins.ValueError", "xxxx"),
    "long arguments": (lambda: ValueError(["x" * LONG]), "builtins.ValueError", "['xxxx"),
    "surrogates": (lambda: ValueError("a\ud800b"), "builtins.ValueError", "a\\ud800b"),
    "a NUL": (lambda: ValueError("a\0b"), "builtins.ValueError", "a\\x00b"),
    "bytes": (lambda: ValueError(b"\xff\x00"), "builtins.ValueError", "b'\\xff\\x00'"),
    "no module": (lambda: NoModule("x"), "NoModule", "x"),
    "a number as module": (lambda: NumberedModule("x"), "NumberedModule", "x"),
    "a metaclass of its own": (lambda: OddMeta("x"), "OddMeta", "x"),
    "a very long name": (type("N" * LONG, (Exception,), {}), "NNNN", ""),
    "not to be compared": (lambda: Unequal("x"), "Unequal", "x"),
    "neither true nor false": (lambda: Untrue("x"), "Untrue", "x"),
    "no attributes": (lambda: NoAttributes("x"), "NoAttributes", "x"),
    "no class": (lambda: NoClass("x"), "NoClass", "x"),
    "a chain of causes": (_chain, "builtins.ValueError", "number 49"),
    "causes in a circle": (_circle, "builtins.ValueError", "one"),
}

try:
    _Group: Any = ExceptionGroup  # type: ignore[name-defined, unused-ignore]
except NameError:  # Python 3.10
    pass
else:
    ODD["a group"] = (
        lambda: _Group("several", [StrRaises(), ValueError("one")]),
        "builtins.ExceptionGroup",
        "several (2 sub-exceptions)",
    )
