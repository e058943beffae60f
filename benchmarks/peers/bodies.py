"""What fast parsers refuse in an answer, mended: halves of surrogate pairs."""

import re

ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)


def mended(body):
    return ESCAPE.sub(lambda match: rb"\ufffd" if match[1] else match[0], body)
