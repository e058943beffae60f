#!/usr/bin/env bash
# Syncs the account into a target: keeps the state, prevents overlapping runs, rotates logs.
#
# In the crontab:   15 2 * * *   /srv/autopilot/nightly.sh
#
# It works in its own folder, which holds config.json for the tap (or put TAP_AUTOPILOT_ variables
# in the crontab), target.json for the target, optionally catalog.json, and the two programs below,
# each in its own virtual environment. cron mails what the script prints: nothing after a good
# night, warnings about data, or why a run failed. The next run resumes after what the target has
# stored.
# To send only what changed, name a file in this folder in config.json: "digests": "digests".
set -euo pipefail
cd "$(dirname "$0")"

TAP=${TAP:-tap/bin/tap-autopilot}
TARGET=${TARGET:-target/bin/target-jsonl --config target.json}
KEEP=${KEEP:-30} # logs

exec 9>lock # held by the tap and the target too, in case they outlive this script
flock --nonblock 9 || { echo "The previous run is still running." >&2; exit 75; }

# Atomically replace the state with the last whole line that the target printed.
keep_state() {
  local line last=""
  [ -e states ] || return 0
  while IFS= read -r line; do last=$line; done <states
  if [ -n "$last" ]; then
    printf '%s\n' "$last" >state.new
    sync state.new
    mv state.new state.json
  fi
  rm states
}

keep_state # from a previous run that was killed
mkdir -p logs
log=logs/$(date -u +%Y-%m-%dT%H-%M-%S).log
arguments=()
if [ -e config.json ]; then arguments+=(--config config.json); fi
if [ -s state.json ]; then arguments+=(--state state.json); fi
if [ -s catalog.json ]; then arguments+=(--catalog catalog.json); fi

status=0
{ $TAP "${arguments[@]}" | $TARGET >states; } 2>"$log" || status=$?
keep_state

# Warnings in the log, except those about retried requests and single values.
warnings() {
  grep -E '^WARNING|"level": "warning"' "$log" |
    grep -vE '(try|trying) again|retry|does not fit|not valid Unicode' | tail -n 20
}

if [ "$status" != 0 ]; then
  echo "The run failed with exit code $status. See $log:" >&2
  grep -E '^CRITICAL|^[A-Za-z.]*(Error|Exception|Interrupt)\b|ERROR|"level": "(error|critical)"' "$log" |
    tail -n 10 >&2 || tail -n 5 "$log" >&2
elif found=$(warnings); then
  printf 'The run succeeded, with warnings. See %s:\n%s\n' "$log" "$found" >&2
fi
for old in $(ls -1 logs | head -n "-$KEEP"); do rm "logs/$old"; done
exit "$status"
