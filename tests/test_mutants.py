"""The bugs of `make mutants` can still be planted in the code as it is now."""

from __future__ import annotations

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_bug_can_be_planted_and_has_tests(mutant: Mutant) -> None:
    compile(mutant.planted(ROOT), mutant.file, "exec")
    file, _, names = mutant.tests.partition(" -k ")
    assert "def test_" in (ROOT / "tests" / file).read_text()
    assert not names or names.split(" or ")[0] in (ROOT / "tests" / file).read_text()
