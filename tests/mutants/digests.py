"""Bugs in what is remembered of the rows that a target has."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        "an older position in the digests outlives a run without them",
        "protocol/state.py",
        '"walks": self.walks, "digests": self.digests}',
        '"walks": self.walks, **({"digests": self.digests} if self.digests else {})}',
        "test_merged_states.py -k digests",
    ),
    Mutant(
        "a pass resumes that the digests file does not have",
        "protocol/beginning.py",
        "begun = interrupted.is_complete or name in self.remembered.begun",
        "begun = True",
        "test_store_and_digests.py -k digests_cover",
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
        "test_digests_in_doubt.py -k does_not_see",
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
