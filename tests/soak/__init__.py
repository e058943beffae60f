"""Long runs against chance, as programs: `make soak`. Each prints a line of figures.

kills      the tap: killed, signalled, and reading a faulty API
churn      the tap: accounts that change while they are read
nights     the tap with digests: several nights, kills and faults, and what the target has then
histories  the tap: settings change, states are merged, files are restored; within one process
collector  the collector: killed while it receives and forwards
"""
