"""The least that a reader can do: fetch every page, parse it, write each document, nothing else."""

import sys
import urllib.parse

import orjson
import requests

url, key, out = sys.argv[1], sys.argv[2], sys.stdout.buffer
session = requests.Session()
session.headers["autopilotapikey"] = key


def walk(path, listing):
    bookmark = ""
    while bookmark is not None:
        answer = session.get(
            url + path + (bookmark and "/" + urllib.parse.quote(bookmark, safe=""))
        )
        answer.raise_for_status()
        page = orjson.loads(answer.content)
        for document in page[listing]:
            out.write(orjson.dumps(document) + b"\n")
        yield page[listing]
        bookmark = page.get("bookmark")


for _ in walk("/contacts", "contacts"):
    pass
for _ in walk("/lists", "lists"):
    pass
for segments in list(walk("/smart_segments", "segments")):
    for segment in segments:
        for _ in walk(f"/smart_segments/{segment['segment_id']}/contacts", "contacts"):
            pass
