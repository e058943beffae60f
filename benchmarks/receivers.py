"""Three receivers to compare the collector with, without any of its code.

    python -m benchmarks.receivers plain            # reads the body and responds with 200
    python -m benchmarks.receivers durable FILE     # the same, once the events are in SQLite
    python -m benchmarks.receivers once FILE        # the same, but an event sent again is dropped

What each does for a batch of 50 events:

- *plain* parses HTTP, and nothing else.
- *durable* is the least that a receiver must do before it may respond: it splits the batch, and one
  thread inserts a row for each event and commits, with an fsync, for all requests that wait. It
  knows nothing of an event, and stores one that is sent again once more.
- *once* is the least that stores what senders repeat only once: it takes the `messageId` of each
  event, and the database has an index of these.

None of them checks who sends or what, or limits time and memory.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import httptools
import msgspec
import uvloop

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n"
OK += b'{"success": true}'

Respond = Callable[[], None]


class Batch(msgspec.Struct):
    """The body of a batch."""

    batch: list[msgspec.Raw]


class Event(msgspec.Struct):
    """What *once* reads of an event."""

    messageId: str  # noqa: N815


class Events(msgspec.Struct):
    """The same, of a batch."""

    batch: list[Event]


BATCH = msgspec.json.Decoder(Batch)
EVENT = msgspec.json.Decoder(Event)
EVENTS = msgspec.json.Decoder(Events)


def events_of(body: bytes) -> list[tuple[bytes]]:
    """The events of a body, which is one, or a batch."""
    if not body.startswith(b'{"batch"'):
        return [(body,)]
    return [(bytes(event),) for event in BATCH.decode(body).batch]


def events_with_ids(body: bytes) -> list[tuple[str, bytes]]:
    """The same, each with its id."""
    if not body.startswith(b'{"batch"'):
        return [(EVENT.decode(body).messageId, body)]
    events = zip(EVENTS.decode(body).batch, BATCH.decode(body).batch, strict=True)
    return [(event.messageId, bytes(raw)) for event, raw in events]


class Kind(NamedTuple):
    """What a receiver stores."""

    table: str
    insert: str
    rows: Callable[[bytes], Sequence[tuple[object, ...]]]


KINDS = {
    "durable": Kind(
        "CREATE TABLE events (seq INTEGER PRIMARY KEY, body BLOB NOT NULL)",
        "INSERT INTO events (body) VALUES (?)",
        events_of,
    ),
    "once": Kind(
        "CREATE TABLE events (seq INTEGER PRIMARY KEY, id TEXT UNIQUE, body BLOB NOT NULL)",
        "INSERT OR IGNORE INTO events (id, body) VALUES (?, ?)",
        events_with_ids,
    ),
}


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

    def __init__(self, kind: Kind, path: str) -> None:
        self._kind = kind
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
        database.execute(self._kind.table)
        while True:
            with self._wake:
                while not self._waiting:
                    self._wake.wait()
                group, self._waiting = self._waiting, []
            database.execute("BEGIN")
            rows = [row for body, _ in group for row in self._kind.rows(body)]
            database.executemany(self._kind.insert, rows)
            database.execute("COMMIT")
            self._loop.call_soon_threadsafe(self._respond, group)

    def _respond(self, group: list[tuple[bytes, Respond]]) -> None:
        for _, respond in group:
            respond()


async def main(kind: str, path: str) -> None:
    """Serve until the process ends."""

    def at_once(_: bytes, respond: Respond) -> None:
        respond()

    take = at_once if kind == "plain" else Durable(KINDS[kind], path).take
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(take), "127.0.0.1", 0)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.new_event_loop().run_until_complete(main(sys.argv[1], sys.argv[-1]))
