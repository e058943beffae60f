"""An HTTP receiver that stores what Autopilot pushes, and the store that the tap reads.

A request: `http` limits it, `endpoints` and `keys` admit or reject it, `raw_json` and `events`
split it into events (`received`; in `threads` if it is large), and `writer` commits those of many
requests together. A store is open for reading (`reader`) or for writing (`store`); `database` opens
either kind, SQLite (`sqlite`, `sqlite_file`, `sqlite_seen`) or PostgreSQL (`postgres`,
`postgres_sql`), with the statements of both in `shared_sql`.
`destinations`, `hooks` and `commands` are what else a collector does.

Knows the tap's tables and its STATE, but uses only its connections and what both programs share:
logs, settings, arguments, files and exceptions.
"""
