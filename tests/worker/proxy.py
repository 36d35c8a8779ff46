"""A way to a server that loses answers: the request went through, its answer never comes back."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Forwards connections to a local port, and cuts one when an armed request was answered.

    Args:
        port: of the server, on the loopback address.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._lock = threading.Lock()
        self._armed: dict[bytes, int] = {}
        #: How many answers were lost.
        self.lost = 0
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, text: str, number: int) -> None:
        """Lose the answer to the ``number``th script from now that names ``text``."""
        with self._lock:
            self._armed[text.encode()] = number

    def close(self) -> None:
        self._listener.close()
        with self._lock:
            sockets = list(self._sockets)
        for one in sockets:
            _shut(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # the server is unavailable, and so are we
                _shut(client)
                continue
            with self._lock:
                self._sockets |= {client, server}
            cut = threading.Event()
            for source, sink, back in ((client, server, False), (server, client, True)):
                args = (source, sink, cut, back)
                threading.Thread(target=self._forward, args=args, daemon=True).start()

    def _forward(
        self, source: socket.socket, sink: socket.socket, cut: threading.Event, back: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                if back and cut.is_set():
                    with self._lock:
                        self.lost += 1
                    break
                if not back and self._is_hit(data):
                    cut.set()
                sink.sendall(data)
        _shut(source)
        _shut(sink)
        with self._lock:
            self._sockets -= {source, sink}

    def _is_hit(self, data: bytes) -> bool:
        if b"EVAL" not in data:
            return False
        hit = False
        with self._lock:
            for text in [text for text in self._armed if text in data]:
                self._armed[text] -= 1
                if self._armed[text] == 0:
                    del self._armed[text]
                    hit = True
        return hit


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
