"""What operators ask: check, explain, invalidate, redrive, declare."""
