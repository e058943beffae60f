"""One run of the tap, from the first request to the final report.

Knows nothing of HTTP, nor how documents become rows.
"""
