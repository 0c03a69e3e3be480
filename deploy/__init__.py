"""Servers for a demo or a test run, and the set-up of a machine."""
