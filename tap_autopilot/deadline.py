"""Connections on which a request must be over by a deadline, however its bytes trickle in.

The timeouts of `requests` apply to each read from the socket, so that a server which sends a byte
now and then is never timed out. Here every operation gets what is left until the deadline.
"""

from __future__ import annotations

import functools
import socket
import ssl
import time
from typing import Any, ClassVar

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssl_ import create_urllib3_context


class Deadline:
    """The moment, on the monotonic clock, by which the request under way must be over."""

    def __init__(self) -> None:
        self.at = 0.0

    def left(self) -> float:
        """Seconds left. Raises TimeoutError if there are none."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for the request is up")
        return left


class _Socket(socket.socket):
    deadline: ClassVar[Deadline]

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(self.deadline.left())
        return super().recv_into(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.settimeout(self.deadline.left())
        super().sendall(*args, **kwargs)


class _TLSSocket(ssl.SSLSocket):
    deadline: ClassVar[Deadline]

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(self.deadline.left())
        return super().recv_into(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.settimeout(self.deadline.left())
        super().sendall(*args, **kwargs)


class _Connection(HTTPConnection):
    def __init__(self, kind: type[_Socket], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kind = kind

    def _new_conn(self) -> socket.socket:
        return _as(self._kind, super()._new_conn())


class _TLSConnection(HTTPSConnection):
    def __init__(self, kind: type[_Socket], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kind = kind

    def _new_conn(self) -> socket.socket:
        return _as(self._kind, super()._new_conn())


def _as(kind: type[_Socket], connected: socket.socket) -> socket.socket:
    family, form, number = connected.family, connected.type, connected.proto
    timed = kind(family, form, number, fileno=connected.detach())
    timed.settimeout(kind.deadline.left())  # also bounds the TLS handshake
    return timed


class DeadlineAdapter(HTTPAdapter):
    """A transport adapter for one thread and one connection: requests are over by `deadline.at`."""

    def __init__(self) -> None:
        self.deadline = Deadline()
        bound = {"deadline": self.deadline}
        kind = type("_BoundSocket", (_Socket,), bound)
        self._tls = create_urllib3_context()
        self._tls.sslsocket_class = type("_BoundTLSSocket", (_TLSSocket,), bound)
        connection = {"ConnectionCls": functools.partial(_Connection, kind)}
        tls_connection = {"ConnectionCls": functools.partial(_TLSConnection, kind)}
        self._pools = {
            "http": type("_Pool", (HTTPConnectionPool,), connection),
            "https": type("_TLSPool", (HTTPSConnectionPool,), tls_connection),
        }
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Have the pools of this adapter make timed connections."""
        super().init_poolmanager(*args, ssl_context=self._tls, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """The same behind a proxy."""
        manager = super().proxy_manager_for(proxy, ssl_context=self._tls, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager
