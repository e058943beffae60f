"""Bugs in the collector, and in reading its store."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        "the store's id is ignored",
        "protocol/beginning.py",
        "if store_id != self.id:",
        "if False:",
        "test_store_and_digests.py -k continues_reading",
    ),
    Mutant(
        "a position in the store is just a number",
        "protocol/beginning.py",
        "if fingerprint not in (None, self.fingerprint(seq)):",
        "if False:",
        "test_store_positions.py -k restored",
    ),
    Mutant(
        "the messages in the store are done before they are written",
        "pushed/events.py",
        "        streams = frozenset(positions) - {MESSAGES}\n",
        "        streams = frozenset(positions)\n",
        "test_log_based.py -k any_state",
    ),
    Mutant(
        "an older position in the store outlives a run without it",
        "protocol/state.py",
        '            written["collected"] = position and [part for part in position if part is not None]\n',
        "            if self.collected:\n"
        '                written["collected"] = list(self.collected)\n',
        "test_log_based.py -k without_the_store",
    ),
    Mutant(
        "the position in the store is a time",
        "pushed/events.py",
        "if event.seq > position and not event.pruned]",
        "if not position or event.received_at > 1.9e12]",
        "test_store_positions.py -k incremental_reads",
    ),
    Mutant(
        "the position in the store is ahead of its rows",
        "run/sync.py",
        "            self._progress.advance_in_store(page.streams, page.last)\n",
        "            self._progress.advance_in_store(page.streams, page.last + 100)\n",
        "test_log_based.py -k any_state",
    ),
    Mutant(
        "one push stands for any number of polled events",
        "pushed/matching.py",
        "count, apart, numbers = best[place]\n",
        "count, apart, numbers = best[place + 1]\n",
        "test_merge.py",
    ),
    Mutant(
        "the kind of an email does not matter",
        "pushed/index.py",
        "by_contact.setdefault((self._kinds[kind], contact_id), [])",
        "by_contact.setdefault((self._kinds[2], contact_id), [])",
        "test_occurrences.py -k kinds",
    ),
    Mutant(
        "the collector responds before it commits",
        "collector/writer.py",
        "            self._queue.append(work)\n",
        "            self._queue.append(work)\n"
        "            self._loop.call_soon(work.settle, None)\n",
        "collector/test_durability.py -k locked",
    ),
    Mutant(
        "ids of stored events are kept only in memory",
        "collector/sqlite_seen.py",
        '(b"".join(new),)',
        '(b"",)',
        "collector/test_repeats.py -k repeated_id",
    ),
    Mutant(
        "signatures are checked on re-encoded JSON, not on the raw bytes",
        "collector/endpoints.py",
        '            self._check_signature(raw, signature, "body")\n',
        "            import json\n"
        "            again = json.dumps(json.loads(raw)).encode()\n"
        '            self._check_signature(again, signature, "body")\n',
        "collector/test_endpoints.py -k webhooks_destination",
    ),
    Mutant(
        "bodies are parsed before there is a secret",
        "collector/endpoints.py",
        "        if not any(self._secrets.write_keys.accept([key]) for key in keys.in_body(noted())):\n",
        "        if False:\n",
        "collector/test_strangers.py -k judged",
    ),
    Mutant(
        "write keys are stored",
        "collector/events.py",
        '        members.pop("writeKey", None)\n',
        "",
        "collector/test_endpoints.py -k no_secret",
    ),
    Mutant(
        "a failed fsync is retried",
        "collector/writer.py",
        "            self._tell(self._failed, error)\n",
        "            self._tell(self._settle, group, None)\n            self._run()\n",
        "collector/test_durability.py -k io_error",
    ),
    Mutant(
        "tokens are part of the route",
        "collector/endpoints.py",
        'event = "".join(rest)',
        'event = "/".join([token, *rest])',
        "collector/test_endpoints.py -k no_secret",
    ),
    Mutant(
        "secrets are compared only until one is found",
        "collector/keys.py",
        "                accepted |= hmac.compare_digest(digest, secret)\n",
        "                accepted = accepted or hmac.compare_digest(digest, secret)\n",
        "collector/test_secrets.py",
    ),
    Mutant(
        "senders have their time to arrive anew with each byte",
        "collector/http.py",
        "        self._feed(data)\n",
        "        self._feed(data)\n        self._restart_timer()\n",
        "collector/test_timeouts.py -k occasional_byte",
    ),
    Mutant(
        "a destination's refusal of everything is the events' fault",
        "collector/destinations.py",
        "if len(refused) == len(batch):",
        "if not batch:",
        "collector/test_destination_responses.py -k refuses_every",
    ),
)
