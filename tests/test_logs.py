"""What other people write never controls the log: no forged line, no key."""

from __future__ import annotations

import base64
import json
import logging
import re
import time
import unicodedata
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot import logs
from tap_autopilot.arguments import NOT_SHOWN, shown_file, shown_name
from tap_autopilot.collector.cli import main
from tap_autopilot.redaction import redactor
from tests.collector.conftest import ROOT, TOKEN, Collector, Start, start  # noqa: F401
from tests.conftest import KEY, PATIENCE, Serve, Tap
from tests.fork_server import Main, every, finished, hasty
from tests.invariants import untimed

FORGED = "x\nCRITICAL all lost\r\x1b[2J\x1b]0;owned\x07\x9b31m\u202etxt\u2028y\x00"
VISIBLE = r"x\nCRITICAL all lost\r\x1b[2J\x1b]0;owned\x07\x9b31m\u202etxt\u2028y"


def assert_clean(stderr: str) -> None:
    """Every line is printable, and starts as the tap starts its lines."""
    for line in stderr.removesuffix("\n").split("\n"):
        assert line.isprintable(), ascii(line)
        assert not line.startswith("CRITICAL all lost")


@pytest.fixture
def captured(capfd: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    """What is written to descriptor 2, and the loggers as they were."""
    loggers = [logging.getLogger(name) for name in logs.OURS]
    before = [(one, one.handlers[:], one.propagate, one.level) for one in loggers]
    raised = logging.raiseExceptions
    yield capfd
    logging.raiseExceptions = raised
    for logger, handlers, propagates, level in before:
        logger.handlers, logger.propagate = handlers, propagates
        logger.setLevel(level)


def test_every_character_that_does_not_print_is_escaped() -> None:
    for category in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        odd = [c for c in map(chr, range(0x11000)) if unicodedata.category(c) == category]
        assert odd
        assert logs.printable("".join(odd)).isprintable()
    assert logs.printable(FORGED) == VISIBLE + r"\x00"
    assert logs.printable("Zoë 😀 東京 – ok") == "Zoë 😀 東京 – ok"


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("logger", ["tap_autopilot.x", "urllib3.util", "requests"])
def test_no_logger_forges_a_line(
    captured: pytest.CaptureFixture[str], form: str, logger: str
) -> None:
    logs.set_up((), "debug", form)
    try:
        raise ValueError(FORGED)
    except ValueError as error:
        log = logging.getLogger(logger)
        log.warning("A %s", FORGED, exc_info=True)
        log.info(FORGED)
        logs.log_bug(error)
    stderr = captured.readouterr().err
    assert "all lost" in stderr
    if form == "text":
        assert_clean(stderr)
        assert any(line.startswith("  File ") for line in stderr.splitlines())
    else:
        for line in stderr.splitlines():
            message = json.loads(line)["message"]
            assert all(part.isprintable() for part in message.split("\n"))
            assert ("\n" in message) == message.startswith("Unexpected ValueError")


def test_a_secret_with_odd_characters_is_still_removed(
    captured: pytest.CaptureFixture[str],
) -> None:
    logs.set_up(["pass\u200bword"])
    logging.getLogger("tap_autopilot").warning("It is %s.", "pass\u200bword")
    assert "It is (API key)." in captured.readouterr().err


def test_a_message_is_cut_only_after_secrets_are_removed(
    captured: pytest.CaptureFixture[str],
) -> None:
    logs.set_up([KEY])
    for length in range(logs.MAX_LENGTH - len(KEY), logs.MAX_LENGTH):
        logging.getLogger("tap_autopilot").info("%s%s", "x" * length, KEY)
        assert KEY[:4] not in captured.readouterr().err.splitlines()[0]
    logging.getLogger("tap_autopilot").info("%s", "x" * 10 * logs.MAX_LENGTH)
    assert len(captured.readouterr().err) < 2 * logs.MAX_LENGTH


@pytest.mark.parametrize(
    "encoded",
    [
        "".join(f"%{byte:02x}" for byte in KEY.encode()),
        "".join(f"%{byte:02X}" for byte in KEY.encode()),
        "".join(f"\\u{byte:04x}" for byte in KEY.encode()),
        "".join(f"&#{byte};" for byte in KEY.encode()),
        KEY.upper(),
        KEY.lower(),
        base64.b64encode(f"user:{KEY}".encode()).decode(),
        KEY.encode().hex(),
        KEY.encode().hex(":").upper(),
        KEY.swapcase(),
        "".join(f"\\u{byte:04X}" for byte in KEY.encode()),
        "".join(f"\\x{byte:02x}" for byte in KEY.encode()),
        "".join(f"&#x{byte:04X};" for byte in KEY.encode()),
        KEY[:5] + "".join(f"%{byte:02x}" for byte in KEY[5:].encode()),
    ],
)
def test_a_secret_that_a_server_encodes_is_removed(encoded: str) -> None:
    redacted = redactor(KEY)(f"not {encoded} again")
    assert "(API key)" in redacted
    assert len(redacted) < 40


@pytest.mark.parametrize(
    "encoded",
    [
        'a+b/c=d "e\\f<g>&h',
        r"a+b\/c=d \"e\\f<g>&h",
        "a%2bb%2fc%3dd+%22e%5cf%3Cg%3E%26h",
        "a%2Bb/c%3Dd%20%22e%5Cf%3cg%3e%26h",
        "a+b/c=d &quot;e\\f&lt;g&gt;&amp;h",
        r"a\u002Bb\u002fc\x3dd &#34;e\\f\u003cg\u003E\u0026h",
    ],
)
def test_a_secret_of_which_a_server_escapes_some_characters_is_removed(encoded: str) -> None:
    redact = redactor('a+b/c=d "e\\f<g>&h', "p\u00e4ss\U0001f511word")
    assert redact(f"not {encoded}!") == "not (API key)!"
    for text in (
        "p%c3%A4ss%f0%9f%94%91word",
        r"P\u00E4ss\ud83d\udd11WORD",
        "p&#228;ss&#x1f511;word",
    ):
        assert redact(text) == "(API key)"
    assert redact("a+b/c=d") == "a+b/c=d"
    assert redactor("not UTF-8: \udcff")("NOT utf-8: \udcff!") == "(API key)!"


def test_removing_secrets_takes_little_time_whatever_the_text_is() -> None:
    """Some 5 s of CPU would be 25 times what it takes."""
    redact = redactor("aa&&\\\\==" * 4, KEY)
    began = time.process_time()
    for part in ("\\", "a", "&#0", "&#000", "%", "aa&&", KEY[:-1], "61"):
        redact(part * (2**16 // len(part)))
    assert time.process_time() - began < 5


def hostile_files() -> list[tuple[str, Any, bool]]:
    """Options, their files' contents, and whether the log quotes what is odd in them."""

    def stream(**entry: Any) -> Any:
        return {"streams": [{"tap_stream_id": "lists", **entry}]}

    odd_metadata = [{"breadcrumb": ["properties", FORGED], "metadata": {"selected": FORGED}}]
    return [
        ("--catalog", {"streams": [{"tap_stream_id": FORGED, "stream": FORGED}]}, True),
        ("--catalog", stream(metadata=odd_metadata), True),
        ("--catalog", stream(replication_method=FORGED, key_properties=[FORGED]), True),
        ("--catalog", stream(selected=FORGED), False),
        ("--state", {"bookmarks": {FORGED: {FORGED: 1}, "contacts": {"version": FORGED}}}, True),
        ("--state", {"currently_syncing": FORGED, "bookmarks": FORGED}, False),
    ]


@pytest.mark.parametrize(("option", "content", "is_quoted"), hostile_files())
def test_a_hostile_file(tap: Tap, serve: Serve, option: str, content: Any, is_quoted: bool) -> None:
    config = tap.file("c.json", {**tap.config(serve()), FORGED: FORGED})
    run = tap.run("-c", config, option, tap.file("f.json", content))
    assert_clean(run.stderr)
    assert "Ignored an unknown setting: (not shown)." in run.stderr
    assert (VISIBLE[:20] in run.stderr) == is_quoted


@pytest.mark.parametrize(
    "arguments",
    [
        ["--select", FORGED[:-1]],
        [f"--{FORGED[:-1]}"],
        [FORGED[:-1]],
        ["--format", FORGED[:-1]],
        ["-c", FORGED[:-1]],
        ["--about", "--state", FORGED[:-1], f"--x={FORGED[:-1]}"],
    ],
)
def test_hostile_arguments(tap: Tap, arguments: list[str]) -> None:
    run = tap.run(*arguments, TAP_AUTOPILOT_API_KEY=KEY)
    assert run.code == 2
    assert_clean(run.stderr)
    assert len(run.log) == 1


def test_a_hostile_report_is_one_line(tap: Tap) -> None:
    report = tap.folder / "report.jsonl"
    config = tap.file("c.json", {"api_key": KEY, "report_file": str(report)})
    folder = tap.folder / FORGED[:-1].replace("/", "")
    folder.mkdir()
    (folder / "state.json").write_text("{")
    run = tap.run("-c", config, "--state", str(folder / "state.json"))
    assert run.code == 2
    assert_clean(run.stderr)
    assert json.loads(report.read_text())["message"].isprintable()


def test_a_collector_with_hostile_names_and_states(
    start: Start,  # noqa: F811
    tmp_path: Path,
) -> None:
    destination = {"name": FORGED[:-1], "url": "http://127.0.0.1:9", "write_key": "k"}
    collector = start(destinations=[destination])
    collector.post(f"/hooks/{TOKEN}", {"event": "contact_added"})
    store_id = json.loads(collector.run("--stats").stdout)["store_id"]
    position = {"store": store_id, "seq": FORGED}
    for bookmarks in ({"contacts": {"collected": position}}, {FORGED: {"collected": FORGED}}):
        path = tmp_path / "state.json"
        path.write_text(json.dumps({"bookmarks": bookmarks}))
        done = collector.run("--prune", "--state", str(path))
        assert_clean(done.stderr)
    assert_clean(collector.run("--register-hooks", FORGED[:-1]).stderr)
    assert_clean(collector.run(f"--{FORGED[:-1]}").stderr)
    collector.stop()
    assert_clean(collector.log.read_text())


@pytest.mark.parametrize("in_environment", [True, False], ids=["environment", "file"])
def test_lines_about_the_settings_have_the_format_too(tap: Tap, in_environment: bool) -> None:
    settings = {"log_format": "json", "startdate": "x"}
    environment = {"TAP_AUTOPILOT_LOG_FORMAT": "json"} if in_environment else {}
    config = "missing.json" if in_environment else tap.file("config.json", settings)
    run = tap.run("--config", config, **environment)
    assert run.code == 2
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    assert [line["level"] for line in lines] == ["warning"] * (len(lines) - 1) + ["critical"]


def test_different_messages_are_not_counted_with_them(captured: pytest.CaptureFixture[str]) -> None:
    logs.set_up()
    log = logging.getLogger("tap_autopilot")
    for number in range(30):
        log.warning("A %s", number)
        log.warning("%s", f"GET /b/{number}x: no")
        log.warning("%s", "C" * (number + 1))
        log.info("D")
    logs.sum_up()
    lines = untimed(captured.readouterr().err).splitlines()
    assert [lines.count(line) for line in ("INFO D", "WARNING A 19", "WARNING A 20")] == [30, 1, 0]
    assert lines[-2:] == [
        "WARNING … and 10 more like: A 0", "WARNING … and 10 more like: GET /b/0x: no"
    ]  # fmt: skip
    assert len(lines) == 30 + 20 + 20 + 30 + 2


def test_a_long_message_without_a_digit_takes_no_time(captured: pytest.CaptureFixture[str]) -> None:
    logs.set_up()
    began = time.process_time()
    logging.getLogger("tap_autopilot").error("%s", "c" * 30_000)
    assert time.process_time() - began < 1
    assert captured.readouterr().err.endswith("ccc\n")


# Arguments that may be a key

KEYS = ["0123456789abcdef0123456789abcdef", "-Zq9'\"x", "k/e+y=~!", "ключ-K3Y", "Ab" * 3000]
BOTH = [
    "--config={}", "--config={{\"api_key\": \"{}\"}}", "-c{}", "-k{}", "-v{}", "{}", "--{}",
    "--key={}", "--api-key={}", "--format={}", "--about={}", "--version={}", "--state={}",
]  # fmt: skip
TAP = [*BOTH, "-d{}", "-s{}", "--select={}", "--catalog={}", "--test={}", "-p{}", "--discover={}"]
COLLECTOR = [
    *BOTH, "--database={}", "--database=missing/{}", "--listen={}", "--prune={}",
    "--register-hooks={}", "--unregister-hooks={}", "--check={}", "--stats={}", "--forget-destination={}",
    "--backup=missing/{}",
]  # fmt: skip


Shown = list[tuple[str, int, str]]


def spellings(argument: str) -> list[list[str]]:
    """An argument as it is and, if it may be, with its value as another argument."""
    name, equals, value = argument.partition("=")
    apart = equals and not value.startswith("-") and name != "--version"  # which ends the program
    return [[argument], [name, value]] if apart else [[argument]]


def shown(main: Main, form: str, folder: Path, *more: str, **environment: str) -> Shown:
    """What a program shows of each key: the key, the exit code, and the output."""
    calls = [
        (key, [*more, *arguments]) for key in KEYS for arguments in spellings(form.format(key))
    ]
    run_all = partial(every, main, [command for _, command in calls])
    texts = finished(run_all, [], folder, environment, PATIENCE)[1].decode().split("\0")[:-1]
    codes = [int(code) for code in texts[1::2]]
    return list(zip([key for key, _ in calls], codes, texts[::2], strict=True))


@pytest.mark.parametrize("form", TAP)
def test_the_tap_shows_no_argument_that_may_be_a_key(tmp_path: Path, form: str) -> None:
    report = tmp_path / "report"
    known = {"TAP_AUTOPILOT_API_KEY": "another", "TAP_AUTOPILOT_REPORT_FILE": str(report)}
    closed = {"TAP_AUTOPILOT_API_URL": "http://127.0.0.1:9", "TAP_AUTOPILOT_RETRY_TIMEOUT": "0"}
    reported = ""
    found = shown(hasty, form, tmp_path, **known, **closed)
    if report.exists():
        reported = re.sub('"run_id": "[0-9a-f]*"', "", report.read_text())
    for key, code, text in found:
        assert code == 2, text
        assert len(text.splitlines()) == 1
        assert_hidden(key, text + reported)


@pytest.mark.parametrize("form", COLLECTOR)
def test_the_collector_shows_no_argument_that_may_be_a_key(tmp_path: Path, form: str) -> None:
    more = ["--prune"] if "state" in form else ["--stats"] if "database" in form else []
    collector = Collector(tmp_path)
    if "forget" in form or "backup" in form:
        assert collector.run("--check").returncode == 0  # creates a store
    for key, code, text in shown(main, form, ROOT, *collector.arguments(*more)):
        assert code == 2, text
        assert_hidden(key, text)


def assert_hidden(key: str, text: str) -> None:
    """Fail if a text shows nine characters of a key: a random id has fewer in common with it."""
    for form in {key, ascii(key)[1:-1], json.dumps(key)[1:-1]}:
        parts = {form[at : at + 9] for at in range(max(1, len(form) - 8))}
        assert not [part for part in parts if part in text], text[:1000]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_in_the_place_of_a_settings_name_is_not_shown(tmp_path: Path, key: str) -> None:
    settings = {key: "", "flatten": 1, "destinations": [{key: 1}]}
    done = Collector(tmp_path, **settings).run("--stats")
    assert "Ignored an unknown setting: flatten." in done.stderr
    assert "destinations has an unknown member (not shown)" in done.stderr
    assert_hidden(key, done.stderr)


@pytest.mark.parametrize(
    "name",
    ["config.json", "/etc/tap/state-1.json", "../x y/events.db", "state", "../a-b/catalog_c"],
)
def test_names_of_missing_files_are_shown(name: str) -> None:
    assert shown_file(name) == name


def test_names_of_files_that_exist_are_shown(tmp_path: Path) -> None:
    (tmp_path / "Odd1").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("Odd1", "link"):
        assert shown_file(str(tmp_path / name)) == str(tmp_path / name)
    assert shown_file(str(tmp_path / "other")) == NOT_SHOWN


def test_names_of_streams_are_shown_without_digits() -> None:
    assert shown_name("email_opend") == "email_opend"
    assert shown_name("email_*") == "email_*"
    for odd in ("k3y", "Key", "a" * 31, "é", ""):
        assert shown_name(odd) == NOT_SHOWN
