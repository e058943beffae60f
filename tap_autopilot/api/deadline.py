"""Connections on which a request must be over by a deadline, however its bytes trickle in.

The timeouts of `requests` apply to each read from the socket, so that a server which sends a byte
now and then is never timed out. Here every operation gets what is left until the deadline.
"""

from __future__ import annotations

import functools
import socket
import ssl
import time
from collections.abc import Iterable
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


class _TLSSocket(_Socket, ssl.SSLSocket):
    """The same over TLS."""


class _Connection(HTTPConnection):
    def __init__(self, kind: type[_Socket], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kind = kind

    def _new_conn(self) -> socket.socket:
        return _connect(self._kind, self.host, self.port, self.socket_options or ())


class _TLSConnection(_Connection, HTTPSConnection):
    """The same over TLS."""


def _connect(kind: type[_Socket], host: str, port: int, options: Iterable[Any]) -> socket.socket:
    """A connection to the first address of a host that takes one, all within the deadline."""
    problem: OSError | None = None
    for family, form, number, _, address in socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM
    ):
        connection = kind(family, form, number)
        try:
            for option in options:
                connection.setsockopt(*option)
            connection.settimeout(kind.deadline.left())
            connection.connect(address)
            connection.settimeout(kind.deadline.left())  # also bounds the TLS handshake
        except OSError as error:
            connection.close()
            problem = error
        else:
            return connection
    raise problem or OSError("the host has no address")


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
