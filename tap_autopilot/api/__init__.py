"""Talks to Autopilot: requests, retries, pacing and parsing.

Knows nothing of Singer, rows or state.
"""
