"""Tests of the tests: bugs planted one at a time, each of which the tests must catch.

`python -m tests.mutants` plants each bug in a copy of the project, runs the tests named with it, and
prints the first that failed. Its exit code is 0 only if every bug was caught.
"""

from __future__ import annotations

from tests.mutants import collector, digests, tap

MUTANTS = (*tap.MUTANTS, *digests.MUTANTS, *collector.MUTANTS)
