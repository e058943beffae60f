"""Checks the URL of a store in PostgreSQL before anything is sent there."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from itertools import zip_longest

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tap_autopilot.collector.reader import shown
from tap_autopilot.exceptions import UserError

ENCRYPTED = ("require", "verify-ca", "verify-full")


def check_address(database: str) -> None:
    """Raise UserError if the URL is invalid, or would send events in plain text over a network.

    What the URL leaves out comes from libpq's environment variables, such as PGHOST.
    """
    try:
        query = urllib.parse.urlsplit(database).query
    except ValueError:
        query = "@"
    defaults = psycopg.pq.Conninfo.get_defaults()
    known = {option.keyword.decode() for option in defaults} | {"ssl"}
    for name, _ in urllib.parse.parse_qsl(query, keep_blank_values=True):
        # Anything odder may be a piece of the password.
        is_word = re.fullmatch(r"\w{1,40}", name) and not re.search("@|password", query)
        if name not in known and is_word:
            raise UserError(
                f"Cannot open the store {shown(database)}: PostgreSQL has no parameter {name};"
                " remove it from the URL."
            )
    try:
        given = conninfo_to_dict(database)
    except psycopg.ProgrammingError:
        raise _invalid(database) from None
    default = {
        option.keyword.decode(): option.val.decode()
        for option in defaults
        if option.val is not None
    }
    whole = {**default, **given}
    names, addresses, ports = (
        str(whole.get(option) or "").split(",") for option in ("host", "hostaddr", "port")
    )
    if any("@" in name[1:] for name in names) or re.search(r"\D", "".join(ports)):
        raise _invalid(database)  # a piece of the password
    hosts = [address or name for name, address in zip_longest(names, addresses, fillvalue="")]
    is_here = all(map(_is_this_machine, hosts)) and not whole.get("service")
    # The file that defines a service overrides libpq's environment variables.
    sslmode = (given if given.get("service") else whole).get("sslmode")
    if not is_here and sslmode not in ENCRYPTED:
        raise UserError(
            f"The store {shown(database)} is on another machine, where events and the password may"
            " only be sent encrypted: add the parameter sslmode=require to the URL, or"
            " sslmode=verify-full, which also checks the certificate."
        )


def _invalid(database: str) -> UserError:
    return UserError(
        f"Cannot open the store {shown(database)}: the URL is invalid; special characters in the"
        " password must be percent-encoded."
    )


def _is_this_machine(host: str) -> bool:
    if host.startswith(("/", "@")) or host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
