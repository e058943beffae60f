"""Measure what senders without a secret cost the others.

    python -m benchmarks.strangers [--seconds 5] [--senders 4]

For each kind of body, some senders without a secret send it as fast as they can, over a connection
each, while another sends events with a write key, plain and compressed, every 5 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import signal
import sys
import tempfile
import time
import zlib

from benchmarks.collector import EVENT, KEY, start

MB = 2**20


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A request."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def attacks() -> dict[str, bytes]:
    """Requests without a valid secret, by what they try."""
    nested = b"[" * 120_000 + b"]" * 120_000
    events = b",".join([b'{"event":"Email Opened","properties":{"a":1}}'] * 5000)
    gz, deflate = "Content-Encoding: gzip", "Content-Encoding: deflate"
    signed = "X-Signature: " + "0" * 40
    return {
        "deep nesting": post("/v1/batch", b'{"batch":%s}' % nested),
        "deep nesting, small": post("/v1/track", b'{"a":%s}' % nested[:2000]),
        "lone surrogates": post("/v1/batch", b'{"batch":["%s"]}' % (b"\\ud800" * 40_000)),
        "many events": post("/v1/batch", b'{"batch":[%s]}' % events),
        "wrong keys": post(
            "/v1/track", b"{%s}" % b",".join(b'"writeKey":"%07d"' % n for n in range(100_000))
        ),
        "escaped names": post("/v1/track", b'"write\\u004bey":' * 500_000),
        "quotes": post("/v1/track", b'"' * (8 * MB)),
        "gzip of zeros": post("/v1/track", gzip.compress(bytes(8 * MB)), gz),
        "gzip of wrong keys": post(
            "/v1/track", gzip.compress(b'"writeKey":"a","writeKey":"b",' * 250_000), gz
        ),
        "gzip of nesting": post("/v1/batch", gzip.compress(b'{"batch":%s}' % nested), gz),
        "gzip too large": post("/v1/track", gzip.compress(bytes(500 * MB), 1), gz),
        "gzip of many members": post("/v1/track", gzip.compress(b"") * 100 + bytes(MB), gz),
        "deflate of zeros": post("/v1/track", zlib.compress(bytes(8 * MB)), deflate),
        "a wrong signature": post("/segment", b"{%s}" % (b" " * (8 * MB - 2)), signed),
        "an array with a wrong signature": post("/segment", b"[%s]" % events, signed),
        "gzip with a wrong signature": post("/segment", gzip.compress(bytes(8 * MB)), signed, gz),
        "a wrong token": post("/hooks/wrong", b" " * (8 * MB)),
        "metrics": b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 10,
    }


async def attack(port: int, request: bytes, end: float) -> int:
    """Send this request again and again. Returns how many responses came."""
    answers = 0
    while time.perf_counter() < end:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while time.perf_counter() < end:
                writer.write(request)
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
                answers += 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # refused, and closed
        finally:
            writer.close()
    return answers


async def send(port: int, packed: bool, end: float) -> list[float]:
    """Send events with a write key. Returns the seconds that each took."""
    took = []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < end:
        body = str({**EVENT, "messageId": str(time.perf_counter_ns())}).replace("'", '"')
        body = body.replace("False", "false")
        more = [f"Authorization: Bearer {KEY}"] + ["Content-Encoding: gzip"] * packed
        data = gzip.compress(body.encode()) if packed else body.encode()
        started = time.perf_counter()
        writer.write(post("/v1/track", data, *more))
        answer = await reader.readuntil(b"}")
        took.append(time.perf_counter() - started)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        await asyncio.sleep(0.005)
    writer.close()
    return took


async def measure(port: int, request: bytes, senders: int, seconds: float) -> tuple[int, float]:
    """The attack's requests a second, and the others' 99th percentile in ms."""
    end = time.perf_counter() + seconds
    attacking = [asyncio.create_task(attack(port, request, end)) for _ in range(senders)]
    plain, packed = await asyncio.gather(send(port, False, end), send(port, True, end))
    took = sorted(plain + packed)
    answers = sum(await asyncio.gather(*attacking))
    return round(answers / seconds), took[int(len(took) * 0.99)] * 1000


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--senders", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        command = [sys.executable, "-m", "tap_autopilot.collector", "--listen", "127.0.0.1:0"]
        server, port = start([*command, "--database", f"{folder}/events.db"], 0)
        try:
            for name, request in {"nothing": b"", **attacks()}.items():
                senders = args.senders if request else 0
                rate, p99 = asyncio.run(measure(port, request, senders, args.seconds))
                print(f"{name:32} {rate:6,} requests/s; p99 of a good sender {p99:6.1f} ms")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


if __name__ == "__main__":
    main()
