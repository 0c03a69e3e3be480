"""How a model call runs: validated input, permits, event loop or threads, and every ending as an outcome."""
