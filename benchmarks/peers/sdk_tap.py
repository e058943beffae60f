"""The same four streams on Meltano's SDK, as its users write taps: REST streams and a paginator."""

import json
import re
from pathlib import Path
from urllib.parse import quote

from singer_sdk import RESTStream, Tap
from singer_sdk import typing as th
from singer_sdk.authenticators import APIKeyAuthenticator
from singer_sdk.pagination import BaseAPIPaginator

SCHEMAS = Path(__file__).parents[2] / "schemas"


class Bookmarks(BaseAPIPaginator):
    def get_next(self, response):
        return response.json().get("bookmark")


class AutopilotStream(RESTStream):
    @property
    def url_base(self):
        return self.config["api_url"]

    @property
    def authenticator(self):
        return APIKeyAuthenticator(
            key="autopilotapikey", value=self.config["api_key"], location="header"
        )

    @property
    def schema(self):
        return json.loads((SCHEMAS / f"{self.name}.json").read_text())

    def get_new_paginator(self):
        return Bookmarks(None)

    def prepare_request(self, context, next_page_token):
        url = self.get_url(context)
        if next_page_token:
            url += "/" + quote(next_page_token, safe="")
        return self.build_prepared_request(method="GET", url=url, headers=self.http_headers)


def snake(name):
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


class Contacts(AutopilotStream):
    name = "contacts"
    path = "/contacts"
    primary_keys = ("contact_id",)
    records_jsonpath = "$.contacts[*]"

    def post_process(self, row, context=None):
        record = {}
        for field, value in row.items():
            name = {"LinkedIn": "linkedin"}.get(field) or snake(field)
            if name.startswith("mail_") and isinstance(value, dict):
                value = [{"id": key, "timestamp": when} for key, when in value.items()]
            elif name.startswith("anywhere_") and isinstance(value, dict):
                value = [{"url": key, "value": seen} for key, seen in value.items()]
            elif name == "custom_fields":
                value = [
                    {**{snake(key): item for key, item in one.items()}, "value": str(one["value"])}
                    for one in value
                ]
            elif name == "number_of_employees":
                value = str(value)
            record[name] = value
        return record


class Lists(AutopilotStream):
    name = "lists"
    path = "/lists"
    primary_keys = ("list_id",)
    records_jsonpath = "$.lists[*]"


class SmartSegments(AutopilotStream):
    name = "smart_segments"
    path = "/smart_segments"
    primary_keys = ("segment_id",)
    records_jsonpath = "$.segments[*]"

    def get_child_context(self, record, context):
        return {"segment_id": record["segment_id"]}


class SmartSegmentsContacts(AutopilotStream):
    name = "smart_segments_contacts"
    path = "/smart_segments/{segment_id}/contacts"
    primary_keys = ("segment_id", "contact_id")
    records_jsonpath = "$.contacts[*]"
    parent_stream_type = SmartSegments

    def post_process(self, row, context=None):
        return {"segment_id": context["segment_id"], "contact_id": row["contact_id"]}


class TapAutopilot(Tap):
    name = "tap-autopilot"
    config_jsonschema = th.PropertiesList(
        th.Property("api_key", th.StringType, required=True),
        th.Property("api_url", th.StringType, required=True),
    ).to_dict()

    def discover_streams(self):
        return [kind(self) for kind in (Contacts, Lists, SmartSegments, SmartSegmentsContacts)]


if __name__ == "__main__":
    TapAutopilot.cli()
