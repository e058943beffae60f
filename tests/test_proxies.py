"""Proxies and CA bundles from the environment, with small real proxies on loopback."""

from __future__ import annotations

import base64
import select
import socket
import ssl
import struct
import sys
import time
from pathlib import Path

import pytest

from tap_autopilot.api.client import Api
from tap_autopilot.config import Config
from tap_autopilot.exceptions import UserError
from tap_autopilot.sandbox.account import Account
from tests.conftest import KEY, PATIENCE, Serve, Tap
from tests.invariants import Run
from tests.recording import Sandbox
from tests.socket_server import Server, Trust

ACCOUNT = Account(contacts=250, lists=3, segments=2, members=20)
USER, PASSWORD = "us er", "p@ss:w/rd"
CREDENTIALS = "us%20er:p%40ss%3Aw%2Frd@"


class Proxy(Server):
    """A proxy that tunnels to any host, each connection in its own thread."""

    scheme = "http"

    def __init__(
        self, *, login: bool = False, refuse: bytes = b"", tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(self._tunnel)
        self._login = login
        self._refuse = refuse
        self._tls = tls
        self.heard: list[bytes] = []  # all that it can read: the bytes before a tunnel
        self.tunnels: list[str] = []

    def through(self, credentials: str = "") -> str:
        return f"{self.scheme}://{credentials}{self.address}"

    def _tunnel(self, connected: socket.socket, _: int) -> None:
        if self._tls:
            connected = self._tls.wrap_socket(connected, server_side=True)
        host, port = self.agree(connected)
        self.tunnels.append(f"{host}:{port}")
        with socket.create_connection((host, port)) as onward:
            pump(connected, onward)

    def read(self, connected: socket.socket, count: int) -> bytes:
        found = b""
        while len(found) < count:
            piece = connected.recv(count - len(found))
            if not piece:
                raise ConnectionError
            found += piece
        self.heard.append(found)
        return found

    def agree(self, connected: socket.socket) -> tuple[str, int]:
        """Where a client wants to connect. Raises ConnectionError if it may not."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.read(connected, 1)
        lines = head.decode().split("\r\n")
        method, target, _ = lines[0].split(" ")
        expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self._refuse:
            connected.sendall(self._refuse)
            raise ConnectionError
        if self._login and f"Proxy-Authorization: Basic {expected}" not in lines:
            connected.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            raise ConnectionError
        if method != "CONNECT":
            connected.sendall(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n")
            raise ConnectionError
        connected.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        host, _, port = target.rpartition(":")
        return host, int(port)


class Socks(Proxy):
    """A SOCKS5 proxy (RFC 1928, with user and password by RFC 1929)."""

    scheme = "socks5h"

    def agree(self, connected: socket.socket) -> tuple[str, int]:
        _, count = self.read(connected, 2)
        methods = self.read(connected, count)
        method = 2 if self._login else 0
        if method not in methods:
            connected.sendall(b"\x05\xff")
            raise ConnectionError
        connected.sendall(bytes([5, method]))
        if self._login:
            user = self.read(connected, self.read(connected, 2)[1]).decode()
            password = self.read(connected, self.read(connected, 1)[0]).decode()
            good = (user, password) == (USER, PASSWORD)
            connected.sendall(b"\x01" + (b"\x00" if good else b"\x01"))
            if not good:
                raise ConnectionError
        kind = self.read(connected, 4)[3]
        if kind == 3:
            host = self.read(connected, self.read(connected, 1)[0]).decode()
        else:
            host = socket.inet_ntoa(self.read(connected, 4))
        (port,) = struct.unpack(">H", self.read(connected, 2))
        connected.sendall(self._refuse or b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        if self._refuse:
            raise ConnectionError
        return host, port


def pump(one: socket.socket, other: socket.socket) -> None:
    """Forward bytes in both directions until either side ends."""
    while True:
        if isinstance(one, ssl.SSLSocket) and one.pending():
            ready: list[socket.socket] = [one]
        else:
            ready, _, _ = select.select([one, other], [], [])
        for side in ready:
            data = side.recv(65536)
            if not data:
                return
            (other if side is one else one).sendall(data)


@pytest.fixture(params=[Proxy, Socks])
def kind(request: pytest.FixtureRequest) -> type[Proxy]:
    found: type[Proxy] = request.param
    return found


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    folder = tmp_path / "trust"
    folder.mkdir()
    return Trust(folder)


@pytest.fixture
def sandbox(serve: Serve, trust: Trust) -> Sandbox:
    return serve(ACCOUNT, tls=trust.server())


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the proxy settings of the machine that the tests run on."""
    proxies = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    for name in (*proxies, "requests_ca_bundle", "curl_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def sync(tap: Tap, sandbox: Sandbox, trust: Trust, *, url: str = "", **environment: str) -> Run:
    """Sync from a sandbox over TLS, with these variables in the environment."""
    config = tap.config(sandbox, retry_timeout=0.5, request_timeout=PATIENCE)
    config["api_url"] = url or config["api_url"]
    path = tap.file("c.json", config)
    return tap.run("-c", path, **{"REQUESTS_CA_BUNDLE": trust.path, **environment})


def assert_through(proxy: Proxy, run: Run, sandbox: Sandbox) -> None:
    """The run read everything, through the proxy, which could not read the key."""
    assert run.code == 0, run.stderr
    assert len(run.rows("contacts")) == 250
    assert set(proxy.tunnels) == {sandbox.url.split("/")[2]}
    assert KEY.encode() not in b"".join(proxy.heard)


@pytest.mark.parametrize(
    ("login", "variable"), [(False, "HTTPS_PROXY"), (False, "https_proxy"), (True, "ALL_PROXY")]
)
def test_a_proxy_is_used(
    tap: Tap, sandbox: Sandbox, trust: Trust, kind: type[Proxy], login: bool, variable: str
) -> None:
    with kind(login=login) as proxy:
        given = {variable: proxy.through(CREDENTIALS if login else "")}
        assert_through(proxy, sync(tap, sandbox, trust, **given), sandbox)


def test_a_proxy_without_a_scheme_is_an_http_proxy(
    tap: Tap, sandbox: Sandbox, trust: Trust
) -> None:
    with Proxy() as proxy:
        assert_through(proxy, sync(tap, sandbox, trust, HTTPS_PROXY=proxy.address), sandbox)


def test_a_proxy_over_tls(tap: Tap, sandbox: Sandbox, trust: Trust) -> None:
    with Proxy(login=True, tls=trust.server()) as proxy:
        url = proxy.through(CREDENTIALS).replace("http:", "https:")
        assert_through(proxy, sync(tap, sandbox, trust, HTTPS_PROXY=url), sandbox)


@pytest.mark.parametrize("exempt", ["127.0.0.1", "*"])
def test_no_proxy_exempts(
    tap: Tap, sandbox: Sandbox, trust: Trust, kind: type[Proxy], exempt: str
) -> None:
    with kind() as proxy:
        run = sync(tap, sandbox, trust, HTTPS_PROXY=proxy.through(), NO_PROXY=exempt)
    assert run.code == 0
    assert proxy.heard == []


def test_no_proxy_sees_a_request_in_plain_text(tap: Tap, serve: Serve) -> None:
    plain = serve(ACCOUNT)
    with Proxy() as proxy:
        given = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), proxy.through())
        run = tap.run("-c", tap.file("c.json", tap.config(plain)), **given)
    assert run.code == 0
    assert proxy.heard == []


@pytest.mark.parametrize("credentials", ["", "us%20er:wr0ngpass@"])
def test_a_proxy_that_wants_other_credentials(
    tap: Tap, sandbox: Sandbox, trust: Trust, kind: type[Proxy], credentials: str
) -> None:
    with kind(login=True) as proxy:
        run = sync(tap, sandbox, trust, HTTPS_PROXY=proxy.through(credentials))
    assert run.code == 2
    assert f"The proxy {proxy.address} " in run.last_words
    assert "Check HTTPS_PROXY" in run.last_words
    assert "wr0ngpass" not in run.stderr
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("kind", "refusal", "said"),
    [
        (Proxy, b"HTTP/1.1 502 Not so\r\n\r\n", " to CONNECT with status 502 Not so"),
        (Socks, b"\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00", ": 0x04: Host unreachable"),
    ],
)
def test_a_proxy_that_cannot_connect(
    tap: Tap, sandbox: Sandbox, trust: Trust, kind: type[Proxy], refusal: bytes, said: str
) -> None:
    with kind(refuse=refusal) as proxy:
        run = sync(tap, sandbox, trust, HTTPS_PROXY=proxy.through())
    assert run.code == 1
    assert f"proxy {proxy.address} responded{said}" in run.last_words


@pytest.mark.parametrize("padding", [0, 30, 50, 66, 100])
def test_a_proxy_that_quotes_the_password(
    tap: Tap, sandbox: Sandbox, trust: Trust, padding: int
) -> None:
    encoded = base64.b64encode(b"somebody:dont-say-it").decode()
    refusal = f"HTTP/1.1 403 {'-' * padding} {encoded} dont-say-it\r\n\r\n".encode()
    with Proxy(refuse=refusal) as proxy:
        run = sync(tap, sandbox, trust, HTTPS_PROXY=proxy.through("somebody:dont-say-it@"))
    assert run.code == 2
    assert "status 403" in run.last_words
    assert "dont-sa" not in run.stderr
    assert encoded[-12:-4] not in run.stderr
    assert encoded[12:18] not in run.stderr


def test_a_dead_proxy_is_named(
    tap: Tap, sandbox: Sandbox, trust: Trust, kind: type[Proxy], closed_port: int
) -> None:
    proxy = f"127.0.0.1:{closed_port}"
    run = sync(tap, sandbox, trust, HTTPS_PROXY=f"{kind.scheme}://somebody:dont-say@{proxy}")
    assert run.code == 1
    assert f": connection refused by proxy {proxy}; gave up" in run.last_words
    assert "dont-say" not in run.stderr
    assert sandbox.requests == []


def test_a_proxy_that_does_not_resolve_is_named(
    tap: Tap, sandbox: Sandbox, trust: Trust, kind: type[Proxy]
) -> None:
    url = f"{kind.scheme}://nowhere.invalid:3128"
    run = sync(tap, sandbox, trust, HTTPS_PROXY=url)
    assert run.code == 1
    assert "could not resolve proxy nowhere.invalid:3128" in run.last_words


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 2"])
def test_a_hanging_proxy_times_out(tap: Tap, sandbox: Sandbox, trust: Trust, answer: bytes) -> None:
    class Slow(Proxy):
        def agree(self, connected: socket.socket) -> tuple[str, int]:
            connected.sendall(answer)
            while True:
                time.sleep(0.2)
                connected.sendall(b"5" if answer.endswith(b"X: ") else b"")

    config = tap.config(sandbox, retry_timeout=0, request_timeout=0.5)
    path = tap.file("c.json", config)
    with Slow() as proxy:
        run = tap.run("-c", path, REQUESTS_CA_BUNDLE=trust.path, HTTPS_PROXY=proxy.through())
    assert run.code == 1
    assert "timed out" in run.last_words


def test_the_certificate_behind_a_proxy_is_blamed_on_its_host(
    tap: Tap, serve: Serve, trust: Trust, kind: type[Proxy]
) -> None:
    other = serve(ACCOUNT, tls=trust.server("example.com"))
    with kind() as proxy:
        run = sync(tap, other, trust, HTTPS_PROXY=proxy.through())
    assert run.code == 2
    host = other.url.split("/")[2]
    assert f"The certificate of {host} is not trusted" in run.last_words
    assert other.requests == []


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_bundle_of_certificates_is_used(
    tap: Tap, sandbox: Sandbox, trust: Trust, variable: str
) -> None:
    given = {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": "", variable: trust.path}
    for url in (sandbox.url, sandbox.url.upper().replace("V1", "v1")):
        assert sync(tap, sandbox, trust, url=url, **given).code == 0


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HTTPS_PROXY", "http://", "The proxy in the environment"),
        ("HTTPS_PROXY", "http://me:\udcffword@127.0.0.1:1", "The proxy in the environment"),
        ("HTTPS_PROXY", "gopher://user:dont-say@x", "The proxy in the environment"),
        ("HTTPS_PROXY", "http://user:dont-say@x:port", "The proxy in the environment"),
        ("HTTPS_PROXY", "http://user:dont#say@x", "The proxy in the environment"),
        ("HTTPS_PROXY", "http://user:dont-say@", "The proxy in the environment"),
        ("HTTPS_PROXY", "http://user:dont-say@:3128", "The proxy in the environment"),
        ("HTTPS_PROXY", "http://user:dont-say@a..b:3128", "The proxy in the environment"),
        ("ALL_PROXY", "socks5h://user:dont-say@", "The proxy in the environment"),
        ("ALL_PROXY", "socks5://", "The proxy in the environment"),
        ("REQUESTS_CA_BUNDLE", "/nowhere", "The CA bundle /nowhere"),
        ("REQUESTS_CA_BUNDLE", "/dev/null", "The CA bundle /dev/null"),
    ],
)
def test_an_unusable_environment_is_a_user_error(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said) as error:
        Api(Config.from_mapping({"api_key": KEY}))
    assert "say" not in str(error.value)


def test_socks_without_pysocks_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5h://127.0.0.1:1080")
    monkeypatch.setitem(sys.modules, "socks", None)
    with pytest.raises(UserError, match=r"pip install 'tap-autopilot\[socks\]'"):
        Api(Config.from_mapping({"api_key": KEY}))
