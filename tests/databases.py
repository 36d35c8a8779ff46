"""Database servers of the tests' own: in a temporary folder, on a unix socket."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg
import pymysql

from celery_saga.testing.processes import ManagedProcess
from tests.helpers import wait_for


def find_program(name: str, *folders: str) -> str | None:
    """The path of a server program, also where it is installed aside of the search path."""
    for folder in folders:
        for found in sorted(Path("/").glob(f"{folder.lstrip('/')}/{name}"), reverse=True):
            return str(found)
    return shutil.which(name)


class _Server:
    """What both have in common.

    Neither runs as root: there it is ``nobody`` who owns the folder and runs the server.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="saga-database-"))
        self._user: dict[str, Any] = {}
        self._prefix: list[str] = []
        if os.getuid() == 0:
            shutil.chown(self.folder, "nobody")
            self._user = {"user": "nobody", "extra_groups": []}
            self._prefix = ["setpriv", "--reuid", "nobody", "--clear-groups"]
        self.log = self.folder / "server.log"
        try:
            self.process = self._start()
            wait_for(self._answers, 60, description="the database server answers")
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, timeout=60, **self._user
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _serve(self, *command: str) -> ManagedProcess:
        return ManagedProcess([*self._prefix, *command], log=self.log, remove=self.folder)

    def _answers(self) -> bool:
        assert self.process.alive, self.log.read_text()
        with contextlib.suppress(psycopg.OperationalError, pymysql.OperationalError):
            self.connect().close()
            return True
        return False

    def _start(self) -> ManagedProcess:
        raise NotImplementedError

    def connect(self) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        """End the server and remove its folder."""
        self.process.stop()


class Postgres(_Server):
    """A PostgreSQL server.

    Args:
        settings: of its configuration, as ``fsync="off"``.
    """

    program = find_program("postgres", "/usr/lib/postgresql/*/bin")

    def __init__(self, **settings: str) -> None:
        self._settings = settings
        super().__init__()

    def _start(self) -> ManagedProcess:
        assert self.program is not None
        initdb, data = str(Path(self.program).with_name("initdb")), str(self.folder / "data")
        self._run(initdb, "--no-sync", "-A", "trust", "-U", "saga", "-E", "UTF8", "-D", data)
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            **self._settings,
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return self._serve(self.program, "-D", data, *settings)

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)  # SIGTERM would wait for its clients to go
        super().close()

    @property
    def conninfo(self) -> str:
        return f"host={self.folder} user=saga dbname=postgres"

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://saga@/postgres?host={self.folder}"

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.conninfo, **options)


class MariaDb(_Server):
    """A MariaDB server; it is used for MySQL too."""

    program = find_program("mariadbd", "/usr/sbin", "/usr/local/sbin")

    def _start(self) -> ManagedProcess:
        assert self.program is not None
        data = str(self.folder / "data")
        options = ("--no-defaults", f"--datadir={data}")
        self._run("mariadb-install-db", *options, "--auth-root-authentication-method=normal")
        return self._serve(
            self.program,
            *options,
            "--skip-networking",
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            "--innodb-flush-log-at-trx-commit=0",
        )

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return f"mysql+pymysql://root@localhost/test?unix_socket={self.folder / 'socket'}"

    def connect(self, **options: Any) -> Any:
        return pymysql.connect(
            unix_socket=str(self.folder / "socket"), user="root", database="test", **options
        )
