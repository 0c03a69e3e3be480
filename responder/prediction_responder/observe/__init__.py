"""Log events, metrics and probes. None shows a body or a secret."""
