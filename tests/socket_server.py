"""A server of raw sockets, and certificates that a test can trust."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trustme

S = TypeVar("S", bound="Server")


class Server:
    """A server that handles each connection with a function, in its own thread."""

    def __init__(self, handle: Callable[[socket.socket, int], object]) -> None:
        self._handle = handle
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}/v1"
        self.connections = 0
        self.asked: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connected, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(
                    target=self._one, args=(connected, self.connections), daemon=True
                ).start()

    def _one(self, connected: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), connected:
            self._handle(connected, number)

    def read_request(self, connected: socket.socket) -> bytes:
        """A request, up to the end of its headers; empty if the client has hung up."""
        heard = b""
        while not heard.endswith(b"\r\n\r\n"):
            piece = connected.recv(65536)
            if not piece:
                return b""
            heard += piece
        self.asked.append(heard)
        return heard

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # otherwise the accepting thread keeps it open
        self._listener.close()


class Trust:
    """A certificate authority, as a file in a folder, and certificates that it issued."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.path = str(folder / "authority.pem")
        self._authority.cert_pem.write_to_path(self.path)

    def server(self, name: str = "127.0.0.1") -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(name).configure_cert(context)
        return context
