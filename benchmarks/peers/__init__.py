"""Responders as users write them today, with other libraries; each is run by path, in an environment of its own."""
