"""What can be observed: log events, counters, probes. No bodies, no secrets."""
