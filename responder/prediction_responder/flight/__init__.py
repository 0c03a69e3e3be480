"""One model call per key: in this process by a flight, across all replicas by a lease."""
