"""The words that the project does not use, and where some are left; a falling ratchet.

One word per idea: for each word on the left there is a term of the field. ``python -m
tests.vocabulary`` counts what is left of them and prints where; with ``--write`` it lowers the
limits in ``vocabulary.txt``. A limit is never raised: use the term.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMITS = Path(__file__).with_suffix(".txt")

#: Patterns of words and what to say instead. They match whole words, and parts of identifiers.
TERMS: Mapping[str, str] = {
    r"boots?|booted": "worker instance",
    r"hearts?|pulse": "heartbeat",
    r"judges?|judged|judging|bury|buried": "expire, reclaim (the failure detector)",
    r"owes|owed": "still holds",
    r"away": "unavailable, unreachable",
    r"undo|undos|undoes|undone|undoing": "compensation; compensate",
    r"unwinds?|unwinding|unwound|backwards?": "rollback, roll back",
    r"tells?|told|telling|announces?|announced|announcing|announcement": (
        "report; publish the result; notify callers"
    ),
    r"news": "report",
    r"errands?": "background job",
    r"patience|patiently": "retry timeout, store timeout",
    r"whoever|somebody|nobody|people|persons?": "the role: worker, operator, caller, broker",
    r"gone": "deleted, expired, lost, ended",
    r"stands": "is stored, is valid, is written",
    r"passages?|passing": "barrier result, enter the barrier",
    r"duty|duties": "required task",
    r"ill|ailing|clinic|surgery": "with findings",
    r"strangers?": "worker without the plugin",
    r"holes?": "placeholder",
    r"believed?|believes|trusted|learnt": "cached, known",
    r"wholly|partly": "in full, in part",
    r"weather|arena|victims?|deaf": "fault plan, target, without heartbeat",
    r"tries in vain|in vain": "without success",
    r"(?:go|goes|going|went|turn|turns|turned) back|way back": "roll back, rollback",
    r"goes on|go on|went on|going on|comes by|moved on": "continues",
    r"given (?:up|back|away)|gives? up|put off": "ended, released, deferred, rate-limited",
    r"is no": "is not a",
    r"has the say|own word|task's word": "owns the claim; reports",
}

_WORD = re.compile("|".join(f"(?P<w{i}>{words})" for i, words in enumerate(TERMS)), re.IGNORECASE)
_EDGE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|_")

#: Not read: what others wrote or defined, what is kept as it was, and this table.
SKIPPED = re.compile(r"CHANGELOG\.md|LICENSE|tests/vocabulary\.(py|txt)|.*\.(svg|png|json)")


def areas() -> Iterator[tuple[str, Path]]:
    """The project's files, each with the area that it belongs to: a folder of one or two names."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in sorted(listed.stdout.split("\n")):
        path = ROOT / name
        if name and path.is_file() and not SKIPPED.fullmatch(name):
            yield "/".join(name.split("/")[:-1][:2]) or ".", path


def found_in(text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, pattern and word, for each word of the table."""
    patterns = list(TERMS)
    for number, line in enumerate(text.splitlines(), 1):
        for match in re.finditer(r"\b(?:" + _WORD.pattern + r")\b", _EDGE.sub(" ", line), re.I):
            which = next(i for i in range(len(patterns)) if match[f"w{i}"])
            yield number, patterns[which], match[0]


def counted() -> Counter[tuple[str, str]]:
    """How often each pattern occurs in each area."""
    counts: Counter[tuple[str, str]] = Counter()
    for area, path in areas():
        counts.update((area, pattern) for _, pattern, _ in found_in(path.read_text()))
    return counts


def limits() -> dict[tuple[str, str], int]:
    """How often each may: area, first word of the pattern, number."""
    found = {}
    for line in LIMITS.read_text().splitlines():
        area, word, number = line.rsplit(maxsplit=2)
        found[area, word] = max(int(number), found.get((area, word), 0))
    return found


def short(pattern: str) -> str:
    """What stands for a pattern in the file of limits."""
    return re.split(r"[|?(]", pattern.replace("(?:", ""))[0].replace(" ", "-")


def _write() -> None:
    now, before = counted(), limits()
    lowered = {
        (area, short(pattern)): min(n, before.get((area, short(pattern)), 0))
        for (area, pattern), n in sorted(now.items())
    }
    lines = [f"{area} {word} {n}" for (area, word), n in lowered.items() if n]
    LIMITS.write_text("".join(f"{line}\n" for line in lines))


def _print(only: str) -> None:
    for _, path in areas():
        name = str(path.relative_to(ROOT))
        if name.startswith(only):
            for number, pattern, word in found_in(path.read_text()):
                print(f"{name}:{number}: {word}: {TERMS[pattern]}")


if __name__ == "__main__":
    _write() if "--write" in sys.argv else _print(sys.argv[1] if len(sys.argv) > 1 else "")
