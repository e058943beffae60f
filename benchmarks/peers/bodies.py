"""Repairs response bodies: fast JSON parsers reject lone surrogates."""

import re

ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)


def without_lone_surrogates(body):
    return ESCAPE.sub(lambda match: rb"\ufffd" if match[1] else match[0], body)
