"""Tests of the tests: bugs planted one at a time, each of which the tests must catch.

`python -m tests.mutants` plants each bug in a copy of the project, runs the tests named with it, and
prints the first that failed. Its exit code is 0 only if every bug was caught.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """A bug: its description, the text to replace in a file, and the tests that must catch it."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = (
    Mutant(
        "the state is written before its rows",
        "run/sync.py",
        "self._writer.write([*lines, state])",
        "self._writer.write([state, *lines])",
        "test_state.py -k every_state",
    ),
    Mutant(
        "the state is a page ahead of the rows",
        "run/sync.py",
        "        self._writer.write([*lines, state])\n",
        "        held, self.held = getattr(self, 'held', []), lines\n"
        "        self._writer.write([*held, state])\n",
        "test_state.py -k every_state",
    ),
    Mutant(
        "the last page of a listing is dropped",
        "sources/reading.py",
        "        after = Position(bookmark, census) if bookmark else None\n",
        "        after = Position(bookmark, census) if bookmark else None\n"
        "        documents = documents if after or not self._documents else []\n",
        "test_rows.py -k every_contact",
    ),
    Mutant(
        "the state keeps a pass that has ended",
        "run/sync.py",
        "        self._progress.finish()\n",
        "",
        "test_rows.py -k literally",
    ),
    Mutant(
        "an error ends with exit code 0",
        "cli.py",
        "return _last_words(str(error), error.exit_code, outcome)",
        "return _last_words(str(error), 0, outcome)",
        "test_faults.py -k refusal",
    ),
    Mutant(
        "a segment that failed is marked as done",
        "run/sync.py",
        "        self._progress.failed(walk)\n",
        "        self._progress.gone(walk) if walk.segment_id else None\n        self._write([])\n",
        "test_faults.py -k does_not_stop_the_others",
    ),
    Mutant(
        "the key is logged once",
        "cli.py",
        "    logs.set_up([config.api_key, *secrets], config.log_level, config.log_format)\n",
        "    logs.set_up()\n    LOG.info('Key %s', config.api_key)\n",
        "test_rows.py -k literally",
    ),
    Mutant(
        "the key is logged in base64, inside a header",
        "run/sync.py",
        "    api = Api(config)\n",
        "    api = Api(config)\n    import base64, sys\n"
        "    print(base64.b64encode(('x:' + config.api_key).encode()), file=sys.stderr)\n"
        "    print(base64.b64encode(config.api_key.encode()), file=sys.stderr)\n",
        "test_rows.py -k literally",
    ),
    Mutant(
        "rows without a key are sent",
        "rows/shape.py",
        "            if not row[key]:\n",
        "            if row[key] == '':\n",
        "test_paging.py -k unusable",
    ),
    Mutant(
        "rows are deleted despite a shortage",
        "sources/completeness.py",
        "if doubts else None",
        "if doubts.keys() - {Doubt.SHORT} else None",
        "test_changing_accounts.py -k small_shortage",
    ),
    Mutant(
        "the bookmark moves despite a shortage",
        "sources/completeness.py",
        "return self is Doubt.SKIPPED",
        "return self in (Doubt.SKIPPED, Doubt.SHORT)",
        "test_incremental.py -k doubt_holds",
    ),
    Mutant(
        "most of a listing may be missing at exit 0",
        "sources/completeness.py",
        "return self in (Doubt.VERY_SHORT, Doubt.ALL_GONE)",
        "return self is Doubt.ALL_GONE",
        "test_changing_accounts.py -k large_shortage",
    ),
    Mutant(
        "repeated contacts count twice",
        "sources/completeness.py",
        "        return len(new)\n",
        "        return len(ids)\n",
        "test_changing_accounts.py -k repeat",
    ),
    Mutant(
        "a short listing is not read again",
        "sources/reading.py",
        "if census.is_short and census.reading == 1:",
        "if census.is_short and census.reading == 0:",
        "test_changing_accounts.py -k short_once",
    ),
    Mutant(
        "an empty response to an outdated bookmark counts as the end",
        "sources/reading.py",
        "            elif bookmark != stale and before and retraced < MAX_RETRACED:\n",
        "            elif response.page and not response.next_bookmark:\n"
        "                page = response.page\n"
        "            elif bookmark != stale and before and retraced < MAX_RETRACED:\n",
        "test_changing_accounts.py -k churn_raises_no_doubt",
    ),
    Mutant(
        "a known page is followed wherever it leads",
        "sources/reading.py",
        "        return new and bookmark == named\n",
        "        return new\n",
        "test_paging.py -k elsewhere",
    ),
    Mutant(
        "a refused bookmark counts as the end",
        "sources/reading.py",
        "            elif bookmark != stale and before and retraced < MAX_RETRACED:\n",
        "            elif not response.page and bookmark:\n                return\n"
        "            elif bookmark != stale and before and retraced < MAX_RETRACED:\n",
        "test_state.py -k stale",
    ),
    Mutant(
        "the incremental bookmark passes the start of the run",
        "rows/changed.py",
        "changed is None or self.until is None or changed > self.until",
        "changed is None or self.until is None",
        "test_incremental.py -k start_of_the_run",
    ),
    Mutant(
        "rows with exactly the bookmark's time are skipped",
        "rows/changed.py",
        "changed >= self.since",
        "changed > self.since",
        "test_incremental.py -k judged",
    ),
    Mutant(
        "the newest change before an interruption is forgotten",
        "protocol/state.py",
        "            self.newest = max(newest, self.newest or newest)\n",
        "            self.newest = newest\n",
        "test_incremental.py",
    ),
    Mutant(
        "the local clock decides, even if it is wrong",
        "protocol/progress.py",
        "current.started = min(now, date or now)",
        "current.started = now",
        "test_incremental.py -k clock",
    ),
    Mutant(
        "a skipped membership raises no doubt",
        "streams/lists.py",
        "                made.skipped += 1\n",
        "",
        "test_from_contacts.py -k doubt",
    ),
    Mutant(
        "redirects are followed anywhere",
        "api/client.py",
        "same = _origin(url) == _origin(self._url)",
        "same = bool(url)",
        "test_faults.py -k another_origin",
    ),
    Mutant(
        "signals are obeyed only between requests",
        "run/signals.py",
        "        stop(stopped)\n",
        "",
        "test_signals.py -k hangs_or_sleeps",
    ),
    Mutant(
        "the store's id is ignored",
        "protocol/beginning.py",
        "if store_id != self.id:",
        "if False:",
        "test_collected.py -k another_store",
    ),
    Mutant(
        "a position in the store is just a number",
        "protocol/beginning.py",
        "if fingerprint not in (None, self.fingerprint(seq)):",
        "if False:",
        "test_collected.py -k restored",
    ),
    Mutant(
        "the messages in the store are done before they are written",
        "pushed/events.py",
        "        streams = frozenset(positions) - {MESSAGES}\n",
        "        streams = frozenset(positions)\n",
        "test_log_based.py -k any_state",
    ),
    Mutant(
        "a run of logs ends the interrupted passes of other streams",
        "protocol/progress.py",
        "if only_log_based else None\n",
        "if False else None\n",
        "test_log_based.py -k interrupted_night",
    ),
    Mutant(
        "a pass resumes at the position of another reading",
        "protocol/positions.py",
        "if saved is None or marks != {saved[2]}:",
        "if saved is None:",
        "test_merged_states.py -k another_pass",
    ),
    Mutant(
        "a pass resumes with other columns",
        "protocol/beginning.py",
        "        if interrupted.plan != fresh.plan:\n",
        "        if False:\n",
        "test_merged_states.py -k mid_pass",
    ),
    Mutant(
        "an older position in the digests outlives a run without them",
        "protocol/state.py",
        '"walks": self.walks, "digests": self.digests}',
        '"walks": self.walks, **({"digests": self.digests} if self.digests else {})}',
        "test_merged_states.py -k digests",
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
        "an older bookmark outlives a full refresh",
        "protocol/state.py",
        "if stream.replication_key and (self.is_incremental or self.bookmark):",
        "if stream.replication_key and self.bookmark:",
        "test_merged_states.py -k incremental_table_continues",
    ),
    Mutant(
        "an incremental pass replaces an interrupted full one",
        "run/sync.py",
        "selected = complete_first(_select(config, catalog, api), state)",
        "selected = _select(config, catalog, api)",
        "test_merged_states.py -k between_the_halves",
    ),
    Mutant(
        "the position in the store is a time",
        "pushed/events.py",
        "if event.seq > position and not event.pruned]",
        "if not position or event.received_at > 1.9e12]",
        "test_collected.py -k incremental_reads",
    ),
    Mutant(
        "the position in the store is ahead of its rows",
        "run/sync.py",
        "            self._progress.advance_in_store(page.streams, page.last)\n",
        "            self._progress.advance_in_store(page.streams, page.last + 100)\n",
        "test_collected.py -k state_resumes",
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
        "test_collected.py -k kinds",
    ),
    Mutant(
        "a lone segment's bookmarks are lost from the state",
        "protocol/positions.py",
        "            self._open[segment_id] = after\n",
        "            self._open.pop(segment_id)\n",
        "test_state.py -k every_state",
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
        "collector/test_endpoints.py -k repeated_id",
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
        '        found.pop("writeKey", None)\n',
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
        "a pass resumes that the digests file does not have",
        "protocol/beginning.py",
        "begun = interrupted.is_complete or name in self.remembered.begun",
        "begun = True",
        "test_progress.py -k digests_cover",
    ),
    Mutant(
        "unconfirmed rows are taken for granted",
        "digests/digests.py",
        "update rows set digest = 0, sent = 0,",
        "update rows set sent = 0,",
        "test_digests_file.py -k quiet_night",
    ),
    Mutant(
        "unconfirmed tombstones are taken for granted",
        "digests/digests.py",
        "from gone where step > ?1",
        "from gone where step < 0",
        "test_digests_file.py -k quiet_night",
    ),
    Mutant(
        "what an unconfirmed page saw counts as seen",
        "digests/digests.py",
        "delete from seen where step > ?1",
        "delete from seen where step < 0",
        "test_digests_file.py -k quiet_night",
    ),
    Mutant(
        "a row sent twice in a pass is unseen after going back",
        "digests/digests.py",
        "if row[SENT] > resumable:",
        "if row[SENT] < 0:",
        "test_digests_file.py -k stays_seen",
    ),
    Mutant(
        "a row that changes back within a pass is not sent again",
        "digests/digests.py",
        "update set digest = excluded.digest, sent",
        "update set sent",
        "test_digests_file.py -k changes_back",
    ),
    Mutant(
        "rows that left between two others on a page count as seen",
        "digests/digests.py",
        "alone = count > len(known)",
        "alone = False",
        "test_digests_file.py -k quiet_night",
    ),
    Mutant(
        "the digests are not on disk before their rows are sent",
        "digests/file.py",
        "{'full' if sends else 'normal'}",
        "normal",
        "test_power_cut.py -k sent_before",
    ),
    Mutant(
        "a digests file is not checked",
        "digests/digests.py",
        "if checksum != (",
        "if not checksum | (",
        "test_digests_file.py -k does_not_see",
    ),
    Mutant(
        "tombstones are sent despite a doubt",
        "sources/completeness.py",
        "if doubts else None",
        "if not doubts else None",
        "test_digests.py -k withholds",
    ),
    Mutant(
        "an interrupted pass forgets what it has read",
        "digests/digests.py",
        "if table.began is None or not start.resumed:",
        "if start:",
        "test_digests.py -k interrupted",
    ),
    Mutant(
        "a digests file of another account is trusted",
        "digests/digests.py",
        "if content.account != self._mark(content.salt):",
        "if not content.account:",
        "test_digests.py -k foreign",
    ),
)


def planted(mutant: Mutant, root: Path) -> str:
    """The text of the mutant's file with the bug planted."""
    text = (root / "tap_autopilot" / mutant.file).read_text()
    assert text.count(mutant.old) == 1, (
        f"{mutant.name}: the text to replace must occur exactly once"
    )
    return text.replace(mutant.old, mutant.new)


def caught(mutant: Mutant, folder: Path) -> str | None:
    """The first test that fails with the bug planted; None if all pass."""
    copy = folder / re.sub(r"\W+", "-", mutant.name)
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".venv*", ".git", "output", ".*cache")
    )
    (copy / "tap_autopilot" / mutant.file).write_text(planted(mutant, copy))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", *f"tests/{mutant.tests}".split(" ")],
        cwd=copy,
        env={"PYTHONPATH": str(copy), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    return found[1] if found else None


def main() -> int:
    """Plant each bug; returns 0 if all were caught."""
    missed = 0
    with tempfile.TemporaryDirectory() as temporary:
        for mutant in MUTANTS:
            by = caught(mutant, Path(temporary))
            missed += by is None
            print(f"{'MISSED' if by is None else 'caught':7} {mutant.name}: {by or ''}", flush=True)
    print(f"{len(MUTANTS) - missed} of {len(MUTANTS)} planted bugs caught")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
