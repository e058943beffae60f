"""Reads what a target stored, run in the target's environment: `readers.py KIND PLACE`.

It prints one JSON object: the rows of each table, every value as the target's library returns it.
With `s3` it first runs an S3 server and prints its address; it reads the bucket `data` whenever a
line arrives on stdin, and stops when stdin is closed.
"""

import io
import json
import sys
from pathlib import Path


def duckdb(path):
    import duckdb

    with duckdb.connect(path) as database:
        tables = database.execute("SELECT table_name FROM information_schema.tables").fetchall()
        return {name: _rows(database.execute(f'SELECT * FROM "{name}"')) for (name,) in tables}


def _rows(cursor):
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def parquet(folder):
    found = {}
    for path in sorted(Path(folder).rglob("*.parquet")):
        table = path.relative_to(folder).parts[0]
        found.setdefault(table, []).extend(_parquet(path.read_bytes()))
    return found


def _parquet(content):
    import pyarrow.parquet

    return pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()


def avro(folder):
    import fastavro

    found = {}
    for path in Path(folder).glob("*.avro"):
        with path.open("rb") as file:
            found[path.name.split(".")[1]] = list(fastavro.reader(file))
    return found


def objects(client):
    found = {}
    for one in client.list_objects_v2(Bucket="data").get("Contents", ()):
        content = client.get_object(Bucket="data", Key=one["Key"])["Body"].read()
        table = one["Key"].split("/")[1]
        if ".parquet" in one["Key"]:
            found.setdefault(table, []).extend(_parquet(content))
        else:
            found.setdefault(table, []).extend(map(json.loads, content.decode().splitlines()))
    return found


def serve():
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    known = {"region_name": "us-east-1", "aws_access_key_id": "x", "aws_secret_access_key": "x"}
    client = boto3.client("s3", endpoint_url=url, **known)
    client.create_bucket(Bucket="data")
    print(url, flush=True)
    for _ in sys.stdin:
        print(json.dumps(objects(client), default=str), flush=True)
    server.stop()


if __name__ == "__main__":
    if sys.argv[1] == "s3":
        serve()
    else:
        print(json.dumps(globals()[sys.argv[1]](sys.argv[2]), default=str))
