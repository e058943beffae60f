"""Tests of the collector: real processes, real sockets, real files."""
