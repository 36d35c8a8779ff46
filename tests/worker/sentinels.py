"""A server with a replica, and the Sentinels that put the replica in its place when it is lost."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
import redis

from celery_saga.testing.embedded import find_server
from celery_saga.testing.processes import ManagedProcess
from tests.helpers import wait_for
from tests.worker.servers import Server, free_port

#: The name by which the Sentinels know the pair.
MASTER = "sagas"

#: Milliseconds after which a silent master counts as lost, and within which a failover is over.
DOWN_AFTER, FAILOVER = 1000, 6000


class Sentinel:
    """One Sentinel, which is the server's own program in another mode."""

    def __init__(self, master: int, quorum: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="saga-sentinel-"))
        self.port = free_port()
        config = self.folder / "sentinel.conf"  # it writes there what it learns
        config.write_text(
            f"bind 127.0.0.1\n"
            f"port {self.port}\n"
            f"dir {self.folder}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {master} {quorum}\n"
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER}\n"
            f"sentinel failover-timeout {MASTER} {FAILOVER}\n"
        )
        self.log = self.folder / "sentinel.log"
        self.process = ManagedProcess(
            [find_server(), config, "--sentinel"], log=self.log, remove=self.folder
        )
        self.client = redis.Redis(port=self.port, decode_responses=True)

    def knows(self, replicas: int, sentinels: int) -> bool:
        """Whether it has found so many replicas, and other Sentinels."""
        assert self.process.alive, self.log.read_text()
        with contextlib.suppress(redis.ConnectionError):
            found = self.client.sentinel_master(MASTER)
            others = int(found["num-other-sentinels"])
            return (int(found["num-slaves"]), others) == (replicas, sentinels)
        return False

    def close(self) -> None:
        self.client.close()
        self.process.stop()


class Sentinels:
    """Two servers and three Sentinels, all of the test's own."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        self.master = self._owned(Server(repl_diskless_sync_delay="0"))
        replicaof = f"127.0.0.1 {self.master.port}"
        self.replica = self._owned(Server(replicaof=replicaof, repl_diskless_sync_delay="0"))
        wait_for(self.in_step, description="the replica has caught up")
        self.sentinels = [self._owned(Sentinel(self.master.port, 2)) for _ in range(3)]
        for each in self.sentinels:
            wait_for(lambda one=each: one.knows(1, 2), description="the Sentinels know each other")

    def _owned(self, part: Any) -> Any:
        self._stack.callback(part.close)
        return part

    def url(self, database: int = 0) -> str:
        """The Sentinels' addresses, as Celery writes them."""
        return ";".join(f"sentinel://127.0.0.1:{one.port}/{database}" for one in self.sentinels)

    def settings(self, store: int = 1) -> dict[str, Any]:
        """An app's: its broker, and its result backend in another database."""
        options = {"master_name": MASTER}
        return {
            "broker_url": self.url(0),
            "broker_transport_options": options,
            "result_backend": self.url(store),
            "result_backend_transport_options": options,
        }

    def in_step(self) -> bool:
        """Whether the replica has all that was written."""
        found: Any = self.master.admin.info("replication")
        offset = found["master_repl_offset"]
        return found["connected_slaves"] == 1 and found["slave0"]["offset"] == offset

    def leads_to(self, server: Server) -> bool:
        """Whether all Sentinels name that server, and it takes writes."""
        named = {one.client.sentinel_get_master_addr_by_name(MASTER) for one in self.sentinels}
        role: Any = server.admin.info("replication")
        return named == {("127.0.0.1", server.port)} and role["role"] == "master"

    def close(self) -> None:
        """End all of them."""
        self._stack.close()


class Listener:
    """Listens at the default port, where clients without a setting connect, and records them.

    Raises:
        OSError: another process listens there.
    """

    def __init__(self, port: int = 6379) -> None:
        self.pids: set[int | None] = set()
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", port))
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                came, (_, port) = self._listener.accept()
                self._kept.append(came)  # its other end stays while it waits for an answer
                for each in psutil.net_connections("tcp"):
                    if each.laddr.port == port and each.raddr:
                        self.pids.add(each.pid)

    def close(self) -> None:
        self._listener.close()
        for each in self._kept:
            each.close()
