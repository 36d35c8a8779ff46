"""Writes the golden files of cases that have none: ``python -m tests.golden``.

A file that is there is never written again. It goes into the folder of the version that
``SCHEMA_VERSION`` names.
"""

from __future__ import annotations

import importlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis

from celery_saga.core.checkpoint import SCHEMA_VERSION
from celery_saga.stores.memory import MemoryStore
from celery_saga.testing.embedded import EmbeddedValkey
from tests.golden.reading import FOLDER, run_on


def main() -> None:
    warnings.simplefilter("ignore")
    with EmbeddedValkey() as server:
        os.environ["SAGA_TEST_URL"] = server.url(0)
        cases = importlib.import_module("tests.golden.cases").CASES
        for name, case in cases.items():
            path = FOLDER / f"v{SCHEMA_VERSION}" / f"{name}.json"
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                data = written(redis.Redis.from_url(server.url(0)), name, case)
                path.write_text(as_text(data))
                print(f"{path.relative_to(Path.cwd())}: {data.get('ends')}")


def written(client: redis.Redis, name: str, case: Any) -> dict[str, Any]:
    """The content of a case's file."""
    stage = importlib.import_module("tests.golden.stage").Stage(client, name)
    case(stage)
    found: dict[str, Any] = {"index": index_of(client), "messages": stage.messages[-4:]}
    fields = stage.fields()
    if fields:
        execution, result = stage.execution, client.get(f"celery-task-meta-{name}")
        store = MemoryStore()
        store.create(execution, "golden")
        found |= {"raw": execution.raw, "fields": fields}
        found["result"] = None if result is None else result.decode()  # type: ignore[union-attr]
        found["continues"], end = run_on(store, name)
        found["ends"] = end.status.value
    return found


def index_of(client: redis.Redis) -> dict[str, Any]:
    """Keys of the store beside the sagas' own: sets as lists, others as mappings."""
    found: dict[str, Any] = {}
    for key in sorted(client.scan_iter("saga:*")):
        name, kind = key.decode(), client.type(key)
        content: Any = None
        if kind == b"set":
            content = sorted(each.decode() for each in client.smembers(key))  # type: ignore[union-attr]
        elif kind == b"zset":
            content = {
                member.decode(): score for member, score in client.zrange(key, 0, -1, False, True)
            }  # type: ignore[union-attr]
        elif kind == b"hash" and not name.startswith("saga:execution:"):
            content = {k.decode(): v.decode() for k, v in client.hgetall(key).items()}  # type: ignore[union-attr]
        if content is not None:
            found[name] = content
    return found


def as_text(data: Mapping[str, Any]) -> str:
    """JSON with a line for each field, message and step."""
    parts = []
    for key, value in data.items():
        one = json.dumps(value, ensure_ascii=False)
        if value and isinstance(value, list):
            lines = [json.dumps(each, ensure_ascii=False) for each in value]
            one = "[\n  " + ",\n  ".join(lines) + "\n ]"
        elif value and isinstance(value, dict):
            lines = [
                f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in value.items()
            ]
            one = "{\n  " + ",\n  ".join(lines) + "\n }"
        parts.append(f"{json.dumps(key)}: {one}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


if __name__ == "__main__":
    main()
