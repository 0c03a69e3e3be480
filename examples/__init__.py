"""Example models, web applications and clients, to copy."""
