"""Which of a contact's events a pushed event stands for."""

from __future__ import annotations

import pytest

from tap_autopilot.rows.merge import WITHIN, Occurrence, key_of, matched

KEY = "1482219072777-48a06f90-c686-11e6-94c6-07e94ae2263b"
MINUTE = 60_000


@pytest.mark.parametrize(
    ("message", "key"),
    [
        (f"batchdelivery_C6590C90-C68A-11E6-94C6-07E94AE2263B_{KEY}", KEY),
        (f"batchcampaign_{KEY.upper()}", KEY),
        (KEY, KEY),
        (f"x9{KEY}", f"x9{KEY}"),  # 14 digits
        (f"{KEY} ", f"{KEY} "),
        ("Some_Other-ID", "Some_Other-ID"),
        ("", ""),
    ],
)
def test_the_key_of_a_message(message: str, key: str) -> None:
    assert key_of(message) == key


@pytest.mark.parametrize(
    ("polled", "pushed", "told"),
    [
        # the same message, whenever that was
        ([(1, 0)], [(1, 10**12)], {0}),
        ([(1, None)], [(1, None)], {0}),
        ([(1, 0)], [], set()),
        # another message, at nearly the same time
        ([(1, 0)], [(2, WITHIN)], {0}),
        ([(1, WITHIN)], [(2, 0)], {0}),
        ([(1, 0)], [(2, WITHIN + 1)], set()),
        ([(1, None)], [(2, 0)], set()),
        ([(1, 0)], [(2, None)], set()),
        ([(1, 0)], [(None, 0)], {0}),
        # each push stands for one
        ([(1, 0), (2, 0)], [(3, 0)], {0}),
        ([(1, 0), (1, MINUTE)], [(1, MINUTE)], {1}),
        ([(1, 0), (1, MINUTE)], [(1, MINUTE), (4, 2 * MINUTE)], {0, 1}),
        # the closest, of those that make as many pairs
        ([(1, 0), (2, 9 * MINUTE)], [(3, 9 * MINUTE)], {1}),
        ([(1, 0), (2, 9 * MINUTE)], [(3, 9 * MINUTE), (4, 18 * MINUTE)], {0, 1}),
        ([(1, 0), (2, 5 * MINUTE), (3, 6 * MINUTE)], [(8, MINUTE), (9, 6 * MINUTE)], {0, 2}),
        # keys before times: the push of 2 is about 2, though it is as close to 1
        ([(1, 0), (2, 0)], [(2, 0)], {1}),
        ([(1, 0), (2, 0)], [(2, 0), (2, MINUTE)], {1}),
        # as many pairs as there can be: 9 minutes apart in a row, with a push missing
        ([(n, 9 * n * MINUTE) for n in range(4)], [(n + 9, (9 * n + 5) * MINUTE) for n in range(3)],
         {1, 2, 3}),
        ([(1, 8 * MINUTE), (2, 0)], [(8, 9 * MINUTE), (9, 10 * MINUTE)], {0, 1}),
    ],
)  # fmt: skip
def test_pairs(
    polled: list[tuple[int, int]], pushed: list[tuple[int, int]], told: set[int]
) -> None:
    both = matched([Occurrence(*one) for one in polled], [Occurrence(*one) for one in pushed])
    assert both == told
