"""One run of the tap, from the first request to the final report.

Knows neither how requests are made nor how documents become rows.
"""
