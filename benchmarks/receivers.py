"""Two receivers to compare the collector with, without any of its code.

    python -m benchmarks.receivers plain            # reads the body and responds with 200
    python -m benchmarks.receivers durable FILE     # the same, once the events are in SQLite

The second is the least that a receiver must do before it may respond: one thread inserts events,
a row for each, and commits for all requests that wait. It checks nothing, and stores an event that
is sent again once more.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
from collections.abc import Callable

import httptools
import msgspec
import uvloop

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n"
OK += b'{"success": true}'

Respond = Callable[[], None]


class Batch(msgspec.Struct):
    """The body of a batch."""

    batch: list[msgspec.Raw]


BATCH = msgspec.json.Decoder(Batch)


def events_of(body: bytes) -> list[bytes]:
    """The events of a body, which is one, or a batch."""
    return list(map(bytes, BATCH.decode(body).batch)) if body.startswith(b'{"batch"') else [body]


class Connection(asyncio.Protocol):
    """A connection that passes each body to `take`, with a function that responds."""

    _transport: asyncio.Transport

    def __init__(self, take: Callable[[bytes, Respond], None]) -> None:
        self._take = take
        self._body = b""
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parse."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Keep the body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Pass on the body."""
        body, self._body = self._body, b""
        self._take(body, self._respond)

    def _respond(self) -> None:
        self._transport.write(OK)


class Durable:
    """Stores bodies in a thread of its own."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Condition()
        self._waiting: list[tuple[bytes, Respond]] = []
        threading.Thread(target=self._run, daemon=True).start()

    def take(self, body: bytes, respond: Respond) -> None:
        """Store a body, then respond."""
        with self._wake:
            self._waiting.append((body, respond))
            self._wake.notify()

    def _run(self) -> None:
        database = sqlite3.connect(self._path, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        while True:
            with self._wake:
                while not self._waiting:
                    self._wake.wait()
                group, self._waiting = self._waiting, []
            database.execute("BEGIN")
            database.executemany(
                "INSERT INTO events (body) VALUES (?)",
                [(event,) for body, _ in group for event in events_of(body)],
            )
            database.execute("COMMIT")
            self._loop.call_soon_threadsafe(self._respond, group)

    def _respond(self, group: list[tuple[bytes, Respond]]) -> None:
        for _, respond in group:
            respond()


async def main(path: str | None) -> None:
    """Serve until the process ends."""

    def at_once(_: bytes, respond: Respond) -> None:
        respond()

    take = Durable(path).take if path else at_once
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(take), "127.0.0.1", 0)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.new_event_loop().run_until_complete(main(sys.argv[2] if sys.argv[2:] else None))
