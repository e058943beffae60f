"""One run of the tap, from the first request to the final report.

Knows no details of HTTP or of rows.
"""
