"""Measure the collector's throughput, compared with the receivers in `benchmarks.receivers`.

    python -m benchmarks.collector [--seconds 5] [--connections 32] [--events 1000000]

The server is pinned to one core; the load comes from another. What is compared takes turns, because
the disk and the rest of the machine are not equally fast all the time. On a busy machine or a slow
disk, everything waits for the same things; then the CPU time tells more than the speed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from tap_autopilot.collector.database import open_reader
from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.server import Sandbox

KEY = "benchmark"
EVENT = {
    "type": "track",
    "event": "Email Opened",
    "timestamp": "2024-05-01T12:00:00.000Z",
    "anonymousId": "ada@example.com",
    "context": {"traits": {"email": "ada@example.com", "contact_id": "person_9EAF39E4"}},
    "properties": {
        "event": "opened",
        "campaign_id": "campaign_CBD5C1FA-3532-42AB-B498-7A93F9CCC72B",
        "campaign_name": "Onboarding Journey",
        "email_id": "batchcampaign_1477963234959-639D1900-9FD1-11E6-95FC-1DF74FF397DB",
        "email_name": "First Onboarding Email",
        "email_subject": "Welcome",
        "transactional": False,
    },
}
ROUNDS = 4


def start(command: list[str], core: int) -> tuple[subprocess.Popen[str], int]:
    """Start a server on one core. Returns it and its port."""
    environment = {
        **os.environ,
        "TAP_AUTOPILOT_COLLECTOR_WRITE_KEYS": KEY,
        "TAP_AUTOPILOT_COLLECTOR_WEBHOOK_SECRETS": KEY,
    }
    server = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    assert server.stdout is not None
    return server, int(server.stdout.readline().rpartition(":")[2])


def request(size: int) -> bytes:
    """A request with `size` events, as a batch if there is more than one."""
    events = [{**EVENT, "messageId": str(uuid.uuid4())} for _ in range(size)]
    body = json.dumps(events[0] if size == 1 else {"batch": events, "sentAt": "now"}).encode()
    path = "track" if size == 1 else "batch"
    head = (
        f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def load(
    port: int, size: int, connections: int, seconds: float = 1e9, requests: float = 1e9
) -> list[float]:
    """Send requests back to back over each connection. Returns the seconds that each took."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def send() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        whole = request(size)
        ids = [one.split('"')[0] for one in whole.decode().split('"messageId": "')[1:]]
        places = [whole.index(one.encode()) for one in ids]
        data = bytearray(whole)
        serial = uuid.uuid4().int  # each connection has its own ids
        while time.perf_counter() < end and len(took) < requests:
            for place in places:  # cheap new ids, far apart in the index
                serial += 1
                data[place : place + 16] = b"%016x" % (serial * 0x9E3779B97F4A7C15 % 2**64)
            started = time.perf_counter()
            writer.write(bytes(data))
            answer = await reader.readuntil(b"}")
            took.append(time.perf_counter() - started)
            assert answer.startswith(b"HTTP/1.1 200"), answer
        writer.close()

    await asyncio.gather(*(send() for _ in range(connections)))
    return took


def measure(
    command: list[str], size: int, connections: int, seconds: float
) -> tuple[list[float], float]:
    """The seconds that each request took, and the seconds of CPU that all of them took."""
    server, port = start(command, 0)
    try:
        before = cpu_of(server.pid)
        took = asyncio.run(load(port, size, connections, seconds))
        return took, cpu_of(server.pid) - before
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def cpu_of(process: int) -> float:
    """The seconds of CPU that a process has taken so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compare(folder: str, size: int, connections: int, seconds: float) -> None:
    """Print the collector's speed beside the other receivers', for requests of `size` events."""
    collector = [sys.executable, "-m", "tap_autopilot.collector", "--listen", "127.0.0.1:0"]
    receivers = [sys.executable, "-m", "benchmarks.receivers"]
    took: dict[str, list[float]] = {"plain": [], "durable": [], "once": [], "collector": []}
    cpu = dict.fromkeys(took, 0.0)
    for number in range(ROUNDS):
        commands = {
            "plain": [*receivers, "plain"],
            "durable": [*receivers, "durable", f"{folder}/durable-{size}-{number}.db"],
            "once": [*receivers, "once", f"{folder}/once-{size}-{number}.db"],
            "collector": [*collector, "--database", f"{folder}/events-{size}-{number}.db"],
        }
        for name, command in commands.items():
            more, more_cpu = measure(command, size, connections, seconds / ROUNDS)
            took[name] += more
            cpu[name] += more_cpu
    each_cpu = {name: cpu[name] / len(each) / size for name, each in took.items()}
    speed = {name: len(each) / seconds for name, each in took.items()}
    p99 = {name: sorted(each)[int(len(each) * 0.99)] * 1000 for name, each in took.items()}
    print("single events:" if size == 1 else f"batches of {size}:")
    for name in took:
        print(
            f"    {name:9} {speed[name] * size:9,.0f} events/s,"
            f" {each_cpu[name] * 1e6:5.1f} us of CPU each, p99 {p99[name]:5.1f} ms;"
            f" the collector has {speed['collector'] / speed[name]:.2f} of it,"
            f" by CPU {each_cpu[name] / each_cpu['collector']:.2f}"
        )


def grow(command: list[str], connections: int, events: int) -> tuple[float, float]:
    """Memory in MB after a hundredth of the events, and after all of them."""
    server, port = start(command, 0)
    found = []
    try:
        for part in (events // 100, events - events // 100):
            asyncio.run(load(port, 50, connections, requests=part / 50))
            status = Path(f"/proc/{server.pid}/status").read_text()
            found.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    return found[0], found[1]


def read(database: str) -> float:
    """Events a second that a reader of the store reads."""
    started, after, count = time.perf_counter(), 0, 0
    with open_reader(database) as reader:
        while found := reader.read(after, 1000):
            after, count = found[-1].seq, count + len(found)
    return count / (time.perf_counter() - started)


def sync(database: str) -> tuple[float, float]:
    """Events a second that the tap, as a whole process, turns into rows; and its memory in MB."""
    with Sandbox(Account(contacts=1)) as sandbox:
        settings = {"api_key": "sandbox", "api_url": sandbox.url, "collector_database": database}
        variables = {f"TAP_AUTOPILOT_{name.upper()}": value for name, value in settings.items()}
        started = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "tap_autopilot", "--select", "email_opened,email_messages"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **variables},
        ) as tap:  # fmt: skip
            _, status, usage = os.wait4(tap.pid, 0)
            tap.returncode = os.waitstatus_to_exitcode(status)
        assert tap.returncode == 0
        took = time.perf_counter() - started
    with open_reader(database) as reader:
        return reader.last_seq / took, usage.ru_maxrss / 1024


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--events", type=int, default=1_000_000)
    args = parser.parse_args()
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for size in (1, 50):
            compare(folder, size, args.connections, args.seconds)
        database = f"{folder}/events.db"
        collector = [sys.executable, "-m", "tap_autopilot.collector", "--listen", "127.0.0.1:0"]
        collector += ["--database", database]
        few, many = grow(collector, args.connections, args.events)
        print(
            f"memory: {few:.0f} MB after {args.events // 100:,} more events, {many:.0f} MB after"
            f" {args.events:,}"
        )
        print(f"reading: {read(database):,.0f} events/s")
        speed, memory = sync(str(Path(database).absolute()))
        print(f"the tap: {speed:,.0f} events/s, {memory:.0f} MB")


if __name__ == "__main__":
    main()
