"""Runs a command, reads its output, and prints its time and memory as JSON.

It is a separate process, and a small one, because on Linux the peak memory of a child includes what
its parent had at the fork.
"""

import json
import os
import subprocess
import sys
import time


def rate(seen, start, end):
    """Rows a second between two fractions of all rows."""
    total = seen[-1][1] if seen else 0
    part = [(at, rows) for at, rows in seen if start * total <= rows <= end * total]
    if len(part) < 2 or part[-1][0] == part[0][0]:
        return 0.0
    return (part[-1][1] - part[0][1]) / (part[-1][0] - part[0][0])


started = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
seen, rows, tail = [], 0, b""
while chunk := process.stdout.read1(1 << 16):
    rows += (tail + chunk).count(b'"RECORD"')
    tail = chunk[-7:]
    if not seen or time.monotonic() - seen[-1][0] > 0.05:
        seen.append((time.monotonic(), rows))
_, status, usage = os.wait4(process.pid, 0)
figures = {
    "exit_code": os.waitstatus_to_exitcode(status),
    "cpu": usage.ru_utime + usage.ru_stime,
    "wall": time.monotonic() - started,
    "memory": usage.ru_maxrss / 1024,
    "rows": rows,
    "early": rate(seen, 0.0, 0.1),
    "late": rate(seen, 0.9, 1.0),
}
sys.stdout.write(json.dumps(figures))
