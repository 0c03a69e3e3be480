"""Models that people can copy."""
