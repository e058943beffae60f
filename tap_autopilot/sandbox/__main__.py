"""`python -m tap_autopilot.sandbox`: serve the sample account until interrupted."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
import threading

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.command import add_options, explain, port, values
from tap_autopilot.sandbox.faults import ACTIONS, Fault, Faults
from tap_autopilot.sandbox.options import Options, Size
from tap_autopilot.sandbox.pushes import Pushing
from tap_autopilot.sandbox.server import Sandbox

EXAMPLES = """examples:
  python -m tap_autopilot.sandbox --contacts 5000 --latency 0.2
  python -m tap_autopilot.sandbox --requests-per-second 5 --fault '/contacts@3-5:503'
  python -m tap_autopilot.sandbox --churn 1 --push-tracking http://127.0.0.1:8787/v1 --write-key KEY

It prints the settings with which the tap reads it."""


def _fault(text: str) -> Fault:
    try:
        return Fault.parse(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tap_autopilot.sandbox",
        usage="%(prog)s [option ...]",
        description="A fake Autopilot API with a made-up account, on loopback.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--port", type=port, default=8117, metavar="N", help="0 picks a free one (default: 8117)"
    )
    add_options(parser.add_argument_group("the account"), Size)
    behavior = parser.add_argument_group("the API")
    add_options(behavior, Options)
    behavior.add_argument(
        "--fault",
        type=_fault,
        action="append",
        default=[],
        metavar="WHEN:WHAT",
        help="WHEN is a number (3, 5-8, 9-), a chance (10%%) or a path (/lists, /lists@1); WHAT is"
        " a status (503; 429,retry-after=2) or a fault. " + explain(ACTIONS),
    )
    pushes = "email events, sent the way Segment sends them; only with one of the two URLs"
    add_options(parser.add_argument_group("pushes", pushes), Pushing, "push-")
    return parser


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    args = _parser().parse_args()
    size = values(Size, args)
    days, seed = size.pop("days"), size["seed"]
    account = Account(**size)
    for day in range(days):
        account.move_on(day)
    pushing = Pushing(**values(Pushing, args))
    options = Options(
        **values(Options, args),
        faults=Faults(args.fault, seed),
        pushing=pushing if pushing.webhook or pushing.tracking else None,
    )
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())
    with contextlib.ExitStack() as stack:
        try:
            sandbox = stack.enter_context(Sandbox(account, options, args.port))
        except OSError as problem:
            sys.exit(f"Cannot listen on that port: {problem.strerror}; try --port 0.")
        print(
            f"{len(account.contact_ids)} contacts, {len(account.lists)} lists,"
            f" {len(account.segments)} smart segments.\n"
            f'To read them: {{"api_url": "{sandbox.url}", "api_key": "{options.api_key}"}}\n'
            f"or: export TAP_AUTOPILOT_API_URL={sandbox.url}"
            f" TAP_AUTOPILOT_API_KEY={shlex.quote(options.api_key)}",
            flush=True,
        )
        stop.wait()


if __name__ == "__main__":
    main()
