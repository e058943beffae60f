"""The least a reader can do: fetch and parse every page, and write each document.

For members it writes only the ids; nobody needs more.
"""

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
        yield page[listing]
        bookmark = page.get("bookmark")


def write(documents):
    for document in documents:
        out.write(orjson.dumps(document) + b"\n")


for name, listing in (("contacts", "contacts"), ("lists", "lists")):
    for documents in walk("/" + name, listing):
        write(documents)
for segments in list(walk("/smart_segments", "segments")):
    write(segments)
    for segment in segments:
        segment_id = segment["segment_id"]
        for members in walk(f"/smart_segments/{segment_id}/contacts", "contacts"):
            write({"segment_id": segment_id, "contact_id": one["contact_id"]} for one in members)
