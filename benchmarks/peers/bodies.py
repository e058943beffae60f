"""Repairs response bodies: fast JSON parsers reject lone surrogates, and numbers like 1e400."""

import re

ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
HUGE = re.compile(rb"([:\[,])(-?\d+(?:\.\d+)?[eE]\+?\d{3,})(?=[,}\]])")


def repaired(body):
    text = ESCAPE.sub(lambda match: rb"\ufffd" if match[1] else match[0], body)
    return HUGE.sub(rb'\1"\2"', text)
