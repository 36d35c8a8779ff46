"""Servers in shapes that the embedded one does not have, and the commands that they got."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from celery_saga.testing.embedded import find_server
from celery_saga.testing.processes import ManagedProcess
from tests.helpers import wait_for


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerEnded(Exception):
    """It did not like its settings."""


class Server:
    """A server of one's own: no password, a TCP port, a unix socket, and further settings.

    Args:
        program: the server program.
        settings: further lines of its configuration.
    """

    def __init__(self, program: str | None = None, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="saga-server-"))
        self.socket = str(self.folder / "socket")
        self.port = free_port()
        lines = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": self.socket,
            "dir": str(self.folder),
            "save": '""',
            **{name.replace("_", "-"): value for name, value in settings.items()},
        }
        config = self.folder / "server.conf"
        config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        self.log = self.folder / "server.log"
        self.process = ManagedProcess(
            [program or find_server(), config], log=self.log, remove=self.folder
        )
        #: Reaches the server past everything that a test puts before it.
        self.admin = redis.Redis(
            unix_socket_path=self.socket, password=settings.get("requirepass"), socket_timeout=None
        )
        try:
            wait_for(self._answers, 15, description="the server answers")
        except BaseException:
            self.close()
            raise

    def _answers(self) -> bool:
        if not self.process.alive:
            raise ServerEnded(self.log.read_text())
        with contextlib.suppress(redis.ConnectionError):
            return bool(self.admin.ping())
        return False

    def url(self, db: int = 0, user: str = "", scheme: str = "redis") -> str:
        return f"{scheme}://{user}127.0.0.1:{self.port}/{db}"

    def close(self) -> None:
        self.admin.close()
        self.process.stop()


class Authority:
    """A certificate authority that exists for one test, and a certificate of it for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.cert, self.key = (str(folder / name) for name in ("ca", "cert", "key"))
        ca_key = str(folder / "ca-key")
        self._make("/CN=test authority", self.ca, ca_key)
        self._make(
            "/CN=127.0.0.1",
            self.cert,
            self.key,
            *("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"),
            *("-CA", self.ca, "-CAkey", ca_key),
        )

    @staticmethod
    def _make(subject: str, certificate: str, key: str, *options: str) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        command += ["-subj", subject, "-out", certificate, "-keyout", key, *options]
        subprocess.run(command, check=True, capture_output=True, timeout=60)


def tls_server(authority: Authority) -> Server | None:
    """A server that speaks TLS by itself, if one is installed; the one of the wheel does not."""
    for program in filter(None, map(shutil.which, ("valkey-server", "redis-server"))):
        port = str(free_port())
        try:
            server = Server(
                program,
                tls_port=port,
                tls_ca_cert_file=authority.ca,
                tls_cert_file=authority.cert,
                tls_key_file=authority.key,
                tls_auth_clients="no",
            )
        except ServerEnded:
            continue
        server.port = int(port)
        return server
    return None


class TlsProxy:
    """Ends TLS before a server that speaks none."""

    def __init__(self, authority: Authority, target: str) -> None:
        self.connections = 0
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(authority.cert, authority.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._run(self._accept)

    @staticmethod
    def _run(call: Any, *args: Any) -> None:
        threading.Thread(target=call, args=args, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                self._run(self._serve, self._listener.accept()[0])

    def _serve(self, plain: socket.socket) -> None:
        try:
            near = self._context.wrap_socket(plain, server_side=True)
        except (OSError, ssl.SSLError):
            plain.close()
            return
        self.connections += 1
        far = socket.socket(socket.AF_UNIX)
        far.connect(self._target)
        self._run(self._pump, far, near)
        self._pump(near, far)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._listener.close()


#: What is written of a message's id, by kombu or from a template, after MONITOR has quoted it.
_TASK_ID = re.compile(r'"correlation_id\\*": ?\\*"([A-Za-z0-9._~-]+)')


class Monitor:
    """The commands of a server while a ``with`` block runs: by client, and by database."""

    def __init__(self, admin: redis.Redis) -> None:
        self._admin, self._end = admin, f"end-{uuid.uuid4().hex}"
        self.commands: list[dict[str, Any]] = []
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Monitor:
        self._thread.start()
        assert self._started.wait(30)
        return self

    def _listen(self) -> None:
        with self._admin.monitor() as monitor:
            self._started.set()
            while True:
                line = monitor.next_command()
                if self._end in line["command"]:
                    return
                self.commands.append(line)

    def __exit__(self, *error: object) -> None:
        self._admin.echo(self._end)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def pushes(self, saga_id: str) -> dict[str, list[dict[str, Any]]]:
        """``direction and step`` -> the commands that sent its message; ``lua``: by a script."""
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in self.commands:
            if line["command"].partition(" ")[0].lower() not in ("lpush", "publish"):
                continue
            match = _TASK_ID.search(line["command"])
            if match and match[1].startswith(f"{saga_id}~"):
                found[match[1].split("~")[1]].append(line)
        return dict(found)

    def senders(self, saga_id: str) -> dict[str, set[str]]:
        """The same, with no more of a command than who gave it: ``lua``, ``tcp`` or ``unix``."""
        return {
            ref: {line["client_type"] for line in lines}
            for ref, lines in self.pushes(saga_id).items()
        }


@contextlib.contextmanager
def serving(program: str | None = None, **settings: str) -> Iterator[Server]:
    server = Server(program, **settings)
    try:
        yield server
    finally:
        server.close()
