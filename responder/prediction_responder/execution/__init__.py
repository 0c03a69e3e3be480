"""How a model call runs: validated input, permits, event loop or threads, and an outcome for every ending."""
