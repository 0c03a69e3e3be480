"""On real servers, through the code that users run."""
