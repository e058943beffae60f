"""Runs the collector: socket, signals and an orderly shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import uvloop

from tap_autopilot import logs
from tap_autopilot.collector.commands import errand_of
from tap_autopilot.collector.config import CollectorConfig
from tap_autopilot.collector.database import open_reader
from tap_autopilot.collector.destinations import Forwarder, first_cursors
from tap_autopilot.collector.endpoints import SETTINGS, Endpoints
from tap_autopilot.collector.errands import ErrandServer
from tap_autopilot.collector.http import Server
from tap_autopilot.collector.metrics import Metrics
from tap_autopilot.collector.notices import Notices
from tap_autopilot.collector.pending import Pending
from tap_autopilot.collector.reader import shown
from tap_autopilot.collector.store import Store
from tap_autopilot.collector.summary import Summarizer
from tap_autopilot.collector.track_calls import TrackCalls
from tap_autopilot.collector.writer import Writer
from tap_autopilot.exceptions import UserError

LOG = logging.getLogger(__name__)

BACKLOG = 2048
SEND_BUFFER = 16 * 1024  # bytes of unread responses that the system keeps, instead of megabytes
MB = 2**20
LAST_RESPONSES = 3.0  # seconds to finish accepted requests
LAST_COMMIT = 1.0  # seconds for remaining commits after that
# Seconds that the event loop waits for a busy thread, several times in a request; usually 0.005.
SWITCH_EVERY = 0.0005
SUM_UP_EVERY = 60.0  # seconds
AFTER_A_BUG = 60.0  # seconds until a job is tried again

Run = Callable[[], Coroutine[Any, Any, None]]


def serve(config: CollectorConfig, store: Store) -> None:
    """Serve until a signal arrives. Raises TapError if the store is lost."""
    listener = _listen(*config.listen)
    _raise_file_limit()
    sys.setswitchinterval(SWITCH_EVERY)
    loop = uvloop.new_event_loop()
    loop.set_exception_handler(_log_bug)
    loop.run_until_complete(_serve(config, store, listener))
    loop.close()


def _log_bug(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if error := context.get("exception"):
        logs.log_bug(error)
    else:
        LOG.error("Unexpected: %s", context["message"])


async def _serve(config: CollectorConfig, store: Store, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()
    metrics, notices = Metrics(), Notices()
    pending = Pending(int(config.max_pending_mb * MB), config.max_body)
    metrics.watch("pending_bytes", "Received and not on disk yet.", lambda: pending.bytes)

    def fail(error: BaseException) -> None:
        if not end.done():
            end.set_exception(error)

    kind = "store" if store.last_seq else "new store"
    first_cursors(store, config.destinations)
    writer = Writer(store, pending, metrics, config.min_free_mb * MB, fail)
    metrics.watch("ready", "Whether events can be stored.", lambda: writer.trouble is None)
    endpoints = Endpoints(config, writer, metrics, notices)
    http = Server(endpoints, pending, config.max_body, config.request_timeout)
    metrics.watch("connections", "Open connections.", lambda: len(http.connections))
    server = await loop.create_server(http.connect, sock=listener, backlog=BACKLOG)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, number, end)
    names = [to.name for to in config.destinations]
    errands = ErrandServer(config.database, writer, lambda asked: errand_of(asked, names))
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    _log_start(url, config, f"{kind} {store.store_id}")
    with contextlib.suppress(OSError):  # nobody needs to read it
        print(f"listening on {url}", flush=True)
    new_reader = partial(open_reader, config.database)
    calls = TrackCalls(new_reader)
    forwarders = [Forwarder(to, calls, writer, metrics) for to in config.destinations]
    runs: list[Run] = [
        Summarizer(new_reader, writer).run,
        partial(_sum_up_regularly, metrics, notices),
        *(forwarder.run for forwarder in forwarders),
    ]
    jobs = [loop.create_task(_despite_bugs(run)) for run in runs]
    await end
    for job in jobs:
        job.cancel()
    errands.close()
    LOG.info("Shutting down.")
    server.close()
    await http.close(LAST_RESPONSES)
    endpoints.close()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(writer.close(), LAST_COMMIT)
        calls.close()
        store.close()
    _sum_up(metrics, notices, at_end=True)


def _listen(host: str, port: int) -> socket.socket:
    listener = _bound(host, port)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # connections inherit it
    return listener


def _bound(host: str, port: int) -> socket.socket:
    try:
        if host == "*":
            return _listen_everywhere(port)
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except UnicodeError:
        raise UserError(
            f"Cannot listen on {host}:{port}: no such host name. Check listen."
        ) from None
    except OSError as problem:
        reason = (problem.strerror or str(problem)).partition(" (while")[0]
        raise UserError(f"Cannot listen on {host}:{port}: {reason}. Check listen.") from None


def _listen_everywhere(port: int) -> socket.socket:
    """Listen on every interface, with IPv6 and IPv4 if this machine has both."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # compiled in, but turned off
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
            )
    return socket.create_server(("", port), backlog=BACKLOG)


def _raise_file_limit() -> None:
    """Raise the limit on open files: each connection takes a descriptor."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _stop(number: int, end: asyncio.Future[None]) -> None:
    if end.done():
        logs.write_last(f"Stopped immediately by a second {signal.Signals(number).name}.")
        os._exit(128 + number)
    end.set_result(None)


def _log_start(url: str, config: CollectorConfig, store: str) -> None:
    """Log where events are stored, and which endpoints are on, with how many secrets each."""
    database = shown(config.database)
    LOG.info("Listening on %s, storing events in %s (%s).", url, database, store)
    for path, setting in SETTINGS.items():
        if count := len(getattr(config, setting)):
            LOG.info("%s is on; number of %s: %d.", path, setting, count)
        else:
            LOG.info("%s is off, because %s is not set.", path, setting)


async def _despite_bugs(run: Run) -> None:
    """Run a job forever: an event that it cannot handle must not keep others from being stored."""
    while True:
        try:
            await run()
        except Exception as error:  # noqa: BLE001
            logs.log_bug(error)
        await asyncio.sleep(AFTER_A_BUG)


async def _sum_up_regularly(metrics: Metrics, notices: Notices) -> None:
    while True:
        await asyncio.sleep(SUM_UP_EVERY)
        _sum_up(metrics, notices)


def _sum_up(metrics: Metrics, notices: Notices, *, at_end: bool = False) -> None:
    """Log what was not logged at once."""
    notices.tell_rest(at_end=at_end)
    notices.repeated(metrics.repeated)
    logs.sum_up()
