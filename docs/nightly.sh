#!/usr/bin/env bash
# Syncs the account into a target: keeps the state, prevents overlapping runs, rotates logs.
#
# It needs Linux, for flock and GNU's coreutils.
#
# In the crontab:       15 2 * * *    /srv/autopilot/nightly.sh
# And with a collector: */5 * * * *   /srv/autopilot/nightly.sh events
#
# It works in its own folder, which holds
#   config.json   the tap's settings (or put TAP_AUTOPILOT_ variables in the crontab)
#   target.json   the target's settings, as its README describes them. For target-jsonl, to write into
#                 the folder rows: {"destination_path": "rows"}. Another target needs a line in the
#                 crontab: TARGET=target/bin/target-postgres --config target.json
#   catalog.json  optional: which streams and columns to read
#   tap, target   the two programs, each in its own virtual environment. If they are elsewhere, as with
#                 pipx, name them in the crontab: TAP=/home/etl/.local/bin/tap-autopilot
# The settings hold secrets, so let nobody else read them: chmod 600 config.json target.json
# cron mails what the script prints: nothing after a good night, otherwise the tap's warnings about
# data, or why the run failed. The next run resumes after what the target has stored.
# To send only what changed, name a file in this folder in config.json: "digests": "digests".
# With an argument such as events, it uses the catalog events.json (see collector.md) and the folder
# logs-events, but the same state. Such a run is skipped if another run is under way; the nightly run
# waits instead.
set -euo pipefail
umask 077 # the logs and what the target writes can hold personal data
cd "$(dirname "$0")"

TAP=${TAP:-tap/bin/tap-autopilot}
TARGET=${TARGET:-target/bin/target-jsonl --config target.json}
KEEP=${KEEP:-30}          # logs of each program
PATIENCE=${PATIENCE:-600} # seconds to wait for another run
JOB=${1:-}
LOGS=logs${JOB:+-$JOB}
CATALOG=${JOB:-catalog}.json

exec 9>lock # held by the tap and the target too, in case they outlive this script
if [ -n "$JOB" ]; then flock --nonblock 9 || exit 0; fi
flock --wait "$PATIENCE" 9 || { echo "The previous run is still running." >&2; exit 75; }

# Atomically replace the state with the last STATE that the target printed, if the line is whole.
keep_state() {
  local line last=""
  [ -e states ] || return 0
  while IFS= read -r line; do
    if [[ $line == "{"* ]]; then last=$line; fi
  done <states
  if [ -n "$last" ]; then
    printf '%s\n' "$last" >state.new
    sync state.new
    mv state.new state.json
  fi
  rm states
}

keep_state # from a previous run that was killed
mkdir -p "$LOGS"
now=$(date -u +%Y-%m-%dT%H-%M-%S)
tap_log=$LOGS/tap-$now.log
target_log=$LOGS/target-$now.log
arguments=()
if [ -e config.json ]; then arguments+=(--config config.json); fi
if [ -s state.json ]; then arguments+=(--state state.json); fi
if [ -n "$JOB" ] || [ -s "$CATALOG" ]; then arguments+=(--catalog "$CATALOG"); fi

set +e
$TAP "${arguments[@]}" 2>"$tap_log" | $TARGET >states 2>"$target_log"
codes=("${PIPESTATUS[@]}")
set -e
keep_state

# The tap's warnings, except those about retried requests and single values.
warnings() {
  grep -E '^[^ ]+ WARNING |"level": "warning"' "$tap_log" |
    grep -vE '(try|trying) again|retry|does not fit|not valid Unicode' | tail -n 20
}

if [ "${codes[1]}" != 0 ]; then
  echo "The target failed with exit code ${codes[1]}. See $PWD/$target_log:" >&2
  tail -n 5 "$target_log" >&2
fi
if [ "${codes[1]}" != 0 ] && tail -n 1 "$tap_log" | grep -q "Broken pipe"; then
  : # the target's failure says it all
elif [ "${codes[0]}" != 0 ]; then
  echo "The tap failed with exit code ${codes[0]}. See $PWD/$tap_log:" >&2
  tail -n 1 "$tap_log" >&2
elif messages=$(warnings); then
  printf 'The tap has warnings. See %s:\n%s\n' "$PWD/$tap_log" "$messages" >&2
fi
for program in tap target; do
  for old in $(ls -1 "$LOGS" | grep "^$program-" | head -n "-$KEEP"); do rm "$LOGS/$old"; done
done
[ "${codes[1]}" = 0 ] || exit "${codes[1]}"
exit "${codes[0]}"
