"""The environment's proxy and certificates, read and checked once for all connections."""

from __future__ import annotations

import importlib.util
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import requests
from requests.utils import prepend_scheme_if_needed, select_proxy
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from tap_autopilot.exceptions import UserError

HTTP_SCHEMES = ("http", "https")
SOCKS_SCHEMES = ("socks4", "socks4a", "socks5", "socks5h")
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Environment:
    """`proxies` and `verify` are for `requests.Session`.

    `proxy` is the proxy's host and port for messages, without credentials; None without a proxy.
    `socks` is whether it is a SOCKS proxy.
    """

    proxies: dict[str, str] = field(default_factory=dict)
    verify: bool | str = True
    proxy: str | None = None
    socks: bool = False


def read_environment(url: str) -> Environment:
    """The environment's settings for requests to a URL. Raises UserError if they are unusable."""
    if not url.startswith("https:"):
        return Environment()  # no proxy may see the key in plain text
    session = requests.Session()
    settings = session.merge_environment_settings(url, {}, None, None, None)
    verify = settings["verify"] or True
    if isinstance(verify, str):
        _check_bundle(verify)
    proxy = select_proxy(url, settings["proxies"])
    if not proxy:
        return Environment(verify=verify)
    try:
        proxy.encode()  # a password of other bytes cannot be sent
        proxy = str(prepend_scheme_if_needed(proxy, "http"))  # type: ignore[no-untyped-call]
        parts = parse_url(proxy)
        (parts.host or "").strip("[]").encode("idna")  # as for every connection
    except (LocationParseError, ValueError, TypeError):  # TypeError: there is no host
        parts = parse_url("")
    if not parts.host or parts.scheme not in HTTP_SCHEMES + SOCKS_SCHEMES:
        raise UserError(
            "The proxy in the environment (HTTPS_PROXY or ALL_PROXY) is not usable; it must look"
            " like http://user:password@proxy.example.com:3128 or socks5h://proxy.example.com:1080."
        )
    socks = parts.scheme in SOCKS_SCHEMES
    if socks and importlib.util.find_spec("socks") is None:
        raise UserError(
            "The proxy in the environment (HTTPS_PROXY or ALL_PROXY) is a SOCKS proxy, which needs"
            " PySocks: pip install 'tap-autopilot[socks]'."
        )
    port = parts.port or PORTS.get(parts.scheme, 1080)
    return Environment({"https": proxy}, verify, f"{parts.host}:{port}", socks)


def _check_bundle(path: str) -> None:
    bundle = Path(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if bundle.is_dir():
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except OSError as problem:
        empty = isinstance(problem, ssl.SSLError)
        cause = "it contains no certificates" if empty else problem.strerror
        raise UserError(
            f"The CA bundle {path} (REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE) is not usable: {cause}."
        ) from None
