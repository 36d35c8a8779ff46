"""Where the time of a test run goes: the slowest tests, and the seconds of each folder or file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

#: How many tests are named.
NAMED = 20


def lines(reports: Iterable[Any]) -> Iterator[str]:
    """The table; nothing of a run of a few tests.

    Args:
        reports: pytest's, of the set-ups, calls and teardowns of all tests.
    """
    tests: Counter[str] = Counter()
    for report in reports:
        tests[report.nodeid] += report.duration
    if len(tests) <= NAMED:
        return
    places: Counter[str] = Counter()
    for nodeid, seconds in tests.items():
        places[_place(nodeid)] += seconds
    yield f"seconds of {len(tests)} tests by folder, those on workers by file"
    yield from (f"{seconds:8.1f}  {place}" for place, seconds in places.most_common())
    yield f"the {NAMED} slowest tests, with what they set up"
    yield from (f"{seconds:8.1f}  {nodeid}" for nodeid, seconds in tests.most_common(NAMED))


def _place(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return (
        file if file.startswith(("tests/worker/", "tests/promises/")) else file.rpartition("/")[0]
    )
