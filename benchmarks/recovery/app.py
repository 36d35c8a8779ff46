"""The app whose workers are killed: bodies record that they began, and wait on demand."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import redis
from celery import Celery, signals

from celery_saga import SagaManager, saga_info

#: Environment variables by which a worker process learns where it is: this and a field of Place.
PREFIX = "SAGA_RECOVERY_"
#: Seconds for which a body waits at its gate.
HELD = 300


@dataclass(frozen=True)
class Place:
    """The servers of an installation, and one on which bodies record what they do.

    Args:
        broker: URL of broker and result backend.
        store: URL of the checkpoints' server, empty for the broker's.
        notes: URL of the server that is never killed.
        settings: further settings of Celery's and ours, as JSON.
    """

    broker: str
    notes: str
    store: str = ""
    settings: str = "{}"

    def environment(self) -> dict[str, str]:
        """The place as environment variables of a worker process."""
        return {PREFIX + name.upper(): value for name, value in asdict(self).items()}

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Place:
        """The reverse of :meth:`environment`."""
        return cls(**{name: environ[PREFIX + name.upper()] for name in cls.__dataclass_fields__})


class Notes:
    """The notes of bodies, and the gates at which they wait; one list a saga, on a server apart.

    A note is ``{"what": "began", "step": "a", "direction": "f", "at": 81.4, "pid": 77}``, its time
    that of ``time.monotonic()``, which is one clock for all processes of a machine.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._clients: dict[int, redis.Redis] = {}

    @property
    def client(self) -> redis.Redis:
        """Of this process: a forked one makes its own."""
        found = self._clients.get(os.getpid())
        if found is None:
            found = redis.Redis.from_url(self._url, socket_timeout=HELD + 30)
            self._clients[os.getpid()] = found
        return found

    def note(self, key: str, what: str, **more: Any) -> None:
        """Add a note."""
        note = {"what": what, "at": time.monotonic(), "pid": os.getpid(), **more}
        self.client.rpush(f"notes:{key}", json.dumps(note))

    def of(self, key: str) -> list[dict[str, Any]]:
        """All notes of a saga, or of a worker by its name."""
        found: Any = self.client.lrange(f"notes:{key}", 0, -1)
        return [json.loads(line) for line in found]

    def first(self, key: str) -> bool:
        """Whether this is the first call for the key."""
        return self.client.incr(f"first:{key}") == 1

    def wait(self, gate: str) -> None:
        """Block until the gate is opened, for :data:`HELD` seconds at most."""
        self.client.blpop([f"gate:{gate}"], timeout=HELD)

    def open(self, gate: str) -> None:
        """Let one body continue."""
        self.client.rpush(f"gate:{gate}", "go")


class Installation:
    """The app of one place, with its tasks.

    What a body does is said by its saga's context, which maps ``step/direction`` to a word:
    ``held`` waits at a gate the first time, ``fails`` raises, ``kills`` ends its whole worker, and
    a number is slept for, in seconds.
    """

    def __init__(self, place: Place) -> None:
        self.app = Celery(
            "recovery", broker=place.broker, backend=place.broker, set_as_current=False
        )
        self.manager = SagaManager(self.app)
        self.app.conf.update(broker_connection_retry_on_startup=True)
        if place.store:
            self.app.conf.saga_store_url = place.store
        self.app.conf.update(json.loads(place.settings))
        self.notes = Notes(place.notes)
        signals.worker_ready.connect(self._ready, weak=False)
        self.late = self._task("late", acks_late=True)
        self.early = self._task("early", acks_late=False)

    def _ready(self, sender: Any = None, **kwargs: Any) -> None:
        self.notes.note(sender.hostname, "ready")

    def _task(self, name: str, **options: Any) -> Any:
        @self.app.task(name=f"recovery.{name}", shared=False, **options)
        def body(ways: dict[str, Any] | None = None) -> None:
            info = saga_info()
            assert info is not None
            me = f"{info.step}/{info.direction}"
            about = {"step": info.step, "direction": info.direction}
            self.notes.note(info.saga_id, "began", **about)
            self._behave((ways or {}).get(me), f"{info.saga_id}:{me}")
            self.notes.note(info.saga_id, "ended", **about)

        return body

    def _behave(self, way: Any, gate: str) -> None:
        if way == "fails":
            raise ValueError("as planned")
        if way == "kills":
            os.killpg(0, signal.SIGKILL)
        if way == "held" and self.notes.first(gate):
            self.notes.wait(gate)
        if isinstance(way, (int, float)):
            time.sleep(way)
