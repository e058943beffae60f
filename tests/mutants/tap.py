"""Bugs in reading the API, in rows, states and passes."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        "the state is written before its rows",
        "run/sync.py",
        "self.writer.write([*lines, state])",
        "self.writer.write([state, *lines])",
        "test_state.py -k every_state",
    ),
    Mutant(
        "the state is a page ahead of the rows",
        "run/sync.py",
        "        self.writer.write([*lines, state])\n",
        "        held, self.held = getattr(self, 'held', []), lines\n"
        "        self.writer.write([*held, state])\n",
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
        "        self._progress.note_failure(walk)\n",
        "        self._progress.note_gone(walk) if walk.segment_id else None\n        self._write([])\n",
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
        "        api = Api(config)\n",
        "        api = Api(config)\n        import base64, sys\n"
        "        print(base64.b64encode(('x:' + config.api_key).encode()), file=sys.stderr)\n"
        "        print(base64.b64encode(config.api_key.encode()), file=sys.stderr)\n",
        "test_rows.py -k literally",
    ),
    Mutant(
        "rows without a key are sent",
        "rows/shape.py",
        "            if not row[key]:\n",
        "            if row[key] == '':\n",
        "test_changing_accounts.py -k unusable",
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
        "test_progress.py -k bookmark_does_not_move",
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
        "test_walks.py -k second_time",
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
        "test_walks.py -k elsewhere",
    ),
    Mutant(
        "a refused bookmark counts as the end",
        "sources/reading.py",
        "            elif bookmark != stale and before and retraced < MAX_RETRACED:\n",
        "            elif not response.page and bookmark:\n                return\n"
        "            elif bookmark != stale and before and retraced < MAX_RETRACED:\n",
        "test_bookmarks.py -k rejected",
    ),
    Mutant(
        "the incremental bookmark passes the start of the run",
        "rows/changed.py",
        "changed is None or self.until is None or changed > self.until",
        "changed is None or self.until is None",
        "test_incremental.py -k which_changes",
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
        "began = min(now, date or now)",
        "began = now",
        "test_incremental.py -k clock",
    ),
    Mutant(
        "a skipped membership raises no doubt",
        "streams/lists.py",
        'tally.skip("an entry in its lists is not a list_id")',
        "pass",
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
        "a lone segment's bookmarks are lost from the state",
        "protocol/positions.py",
        "            self._open[segment_id] = after\n",
        "            self._open.pop(segment_id)\n",
        "test_state.py -k every_state",
    ),
)
