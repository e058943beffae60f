"""`python -m tap_autopilot.sandbox`: serve the sample account until interrupted."""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import sys
import threading
from collections.abc import Iterator

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.faults import ACTIONS, Fault, Faults
from tap_autopilot.sandbox.hooks import SHAPES
from tap_autopilot.sandbox.options import BOOKMARKS, LOSE, STALE, TOTALS, Options
from tap_autopilot.sandbox.pushes import Pushing
from tap_autopilot.sandbox.server import Sandbox


def _explain(choices: dict[str, str]) -> str:
    return "; ".join(f"{name}: {meaning}" for name, meaning in choices.items())


def _fault(text: str) -> Fault:
    try:
        return Fault.parse(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _rate(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return number


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL")
    return text


def _lose(text: str) -> str:
    what, at, number = text.partition("@")
    if what not in LOSE or (at and not (number.isdecimal() and int(number) >= 2)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not {' or '.join(LOSE)}, optionally with @ and a page number from 2"
        )
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tap_autopilot.sandbox",
        description="A fake Autopilot API with a made-up account, on loopback.",
    )
    add = parser.add_argument
    add("--port", type=int, default=8117, help="0 picks a free one (default %(default)s)")
    add("--api-key", default="sandbox", help="the only key it accepts (default %(default)s)")
    add("--seed", type=int, default=1, help="seed of the account (default %(default)s)")
    add("--contacts", type=int, default=432, help="number of contacts (default %(default)s)")
    add("--lists", type=int, default=8, help="number of lists (default %(default)s)")
    add("--segments", type=int, default=6, help="number of smart segments (default %(default)s)")
    add("--members", type=int, default=120, help="contacts in each segment (default %(default)s)")
    add("--days", type=int, default=0, help="days of changes to simulate before serving")
    add(
        "--churn",
        type=_rate,
        default=0,
        metavar="RATE",
        help="average number of account changes per response; 0.5 means a change before every other"
        " response. Contacts join, leave, change and move between lists and segments; occasionally"
        " a list or segment is created, renamed or deleted (default: none)",
    )
    add("--churn-seed", type=int, default=1, help="seed for the changes and for the lost page")
    add("--plain", action="store_true", help="leave out the odd values that clients trip over")
    add("--latency", type=float, default=0, help="delay before each response, in seconds")
    add(
        "--requests-per-second",
        type=float,
        default=0,
        help="respond with 429 above this rate (default: no limit)",
    )
    add("--retry-after", default="", help="Retry-After header of 429 and 503 responses")
    add(
        "--clock-skew",
        type=float,
        default=0,
        metavar="SECONDS",
        help="how far the API's clock is ahead of this machine's; affects Date headers and the"
        " times of changes",
    )
    add("--no-date", action="store_true", help="send no Date header")
    add("--gzip", action="store_true", help="compress responses if the client accepts gzip")
    add("--page", type=_positive, default=100, help="contacts per page (default %(default)s)")
    add("--bookmarks", choices=BOOKMARKS, default="last", help=_explain(BOOKMARKS))
    add(
        "--stale",
        choices=STALE,
        default="on",
        help=f"response to an outdated bookmark. {_explain(STALE)}",
    )
    add(
        "--empty-end",
        action="store_true",
        help="send a bookmark with the last contacts; it leads to an empty page",
    )
    add("--end-early", action="store_true", help="stop sending bookmarks halfway through a listing")
    add(
        "--totals",
        choices=TOTALS,
        default="exact",
        help=f"total_contacts in pages. {_explain(TOTALS)}",
    )
    add("--total-off", type=int, default=0, metavar="N", help="add N to every total")
    add(
        "--lose-page",
        type=_lose,
        metavar="WHICH[@N]",
        help="never serve one page, although totals count its contacts: page N, or by default any"
        " page but the first. Reading again misses the same page. WHICH is " + _explain(LOSE),
    )
    add("--lose-once", action="store_true", help="serve that page when the listing is read again")
    push = parser.add_argument_group(
        "pushes", "email events, sent the way Segment sends them, and REST hooks"
    )
    add_push = push.add_argument
    add_push("--push-segment", type=_url, metavar="URL", help="URL of a Webhooks destination")
    add_push("--webhook-secret", default="", metavar="SECRET", help="signs the posts to that URL")
    add_push(
        "--push-tracking",
        type=_url,
        metavar="URL",
        help="base URL of a tracking API, such as http://127.0.0.1:8787/v1; /batch or /track is"
        " appended",
    )
    add_push("--write-key", default="", metavar="KEY", help="sent with pushes to both")
    add_push(
        "--push-rate",
        type=_rate,
        default=100,
        metavar="RATE",
        help="events per second; 0 is as fast as possible (default %(default)s)",
    )
    for name, what in (
        ("repeated", "sent again, with the same messageId"),
        ("late", "sent after newer ones"),
        ("withheld", "never sent"),
    ):
        add_push(
            f"--push-{name}",
            type=_share,
            default=0.05,
            metavar="SHARE",
            help=f"share of events that are {what} (default %(default)s)",
        )
    add_push(
        "--push-seed", type=int, default=1, help="seed that picks the events for each of these"
    )
    add_push(
        "--other-keys",
        action="store_true",
        help="give emails ids in pushes that are unrelated to their ids in contacts",
    )
    add_push("--hook-shape", choices=SHAPES, default="email", help=_explain(SHAPES))
    add_push(
        "--hook-wait",
        type=_rate,
        default=1,
        metavar="SECONDS",
        help="pause between attempts to deliver to a REST hook (default %(default)s)",
    )
    add(
        "--fault",
        type=_fault,
        action="append",
        default=[],
        metavar="WHEN:WHAT",
        help="WHEN is a number (3, 5-8, 9-), a chance (10%%) or a path (/lists, /lists@1); WHAT is"
        " a status (503; 429,retry-after=2) or a fault. " + _explain(ACTIONS),
    )
    return parser


@contextlib.contextmanager
def _running(sandbox: Sandbox) -> Iterator[Sandbox]:
    try:
        sandbox.__enter__()
    except OSError as problem:
        sys.exit(f"Cannot listen on that port: {problem.strerror}; try --port 0.")
    try:
        yield sandbox
    finally:
        sandbox.__exit__()


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    args = _parser().parse_args()
    account = Account(
        seed=args.seed,
        contacts=args.contacts,
        lists=args.lists,
        segments=args.segments,
        members=args.members,
        odd=not args.plain,
    )
    for day in range(args.days):
        account.move_on(day)
    pushing = Pushing(
        webhook=args.push_segment or "",
        secret=args.webhook_secret,
        tracking=args.push_tracking or "",
        write_key=args.write_key,
        rate=args.push_rate,
        repeated=args.push_repeated,
        late=args.push_late,
        withheld=args.push_withheld,
        other_keys=args.other_keys,
        seed=args.push_seed,
    )
    options = Options(
        api_key=args.api_key,
        page=args.page,
        bookmarks=args.bookmarks,
        stale=args.stale,
        empty_end=args.empty_end,
        end_early=args.end_early,
        totals=args.totals,
        total_off=args.total_off,
        lose=args.lose_page or "",
        lose_once=args.lose_once,
        churn=args.churn,
        seed=args.churn_seed,
        clock_skew=args.clock_skew,
        date=not args.no_date,
        record=False,
        pushing=pushing if pushing.webhook or pushing.tracking else None,
        hook_shape=args.hook_shape,
        hook_wait=args.hook_wait,
        latency=args.latency,
        requests_per_second=args.requests_per_second,
        retry_after=args.retry_after,
        gzip=args.gzip,
        faults=Faults(args.fault, args.seed),
    )
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())
    with _running(Sandbox(account, options, args.port)) as sandbox:
        print(
            f"{len(account.contact_ids)} contacts, {args.lists} lists,"
            f" {args.segments} smart segments.\n"
            f'To read them: {{"api_url": "{sandbox.url}", "api_key": "{args.api_key}"}}',
            flush=True,
        )
        stop.wait()


if __name__ == "__main__":
    main()
