"""Base URLs to which a key or a secret may be sent."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from typing import Any

from tap_autopilot.settings import text


def base_url(value: Any) -> str:
    """A reader of a setting: an HTTPS URL, or HTTP on this machine, without a slash at the end.

    The host is in lower case, and in ASCII (IDNA).
    """
    try:
        url = urllib.parse.urlsplit(text(value).rstrip("/"))
        host, port = url.hostname, url.port
    except ValueError:
        raise ValueError("is not a valid URL") from None
    if url.scheme not in ("http", "https") or not host or url.query or url.fragment:
        raise ValueError("must look like https://api.example.com/v1")
    if url.username is not None:
        raise ValueError("must not contain a user name or password")
    host = _host(host)
    if url.scheme == "http" and not _is_loopback(host):
        raise ValueError("must start with https://, so that keys are encrypted")
    bracketed = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{bracketed}{'' if port is None else f':{port}'}{url.path}"


def _host(host: str) -> str:
    """A host name in ASCII, or an address. Raises ValueError for an invalid one."""
    if ":" in host:
        return str(ipaddress.ip_address(host))
    try:
        name = host.encode("idna").decode()
    except UnicodeError:
        name = ""
    if not re.fullmatch(r"[a-z0-9._-]{1,254}", name):
        raise ValueError("has an invalid host name")
    return name


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
