"""Faults: real processes killed, real sockets cut."""
