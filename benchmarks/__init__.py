"""The figures of the README, measured on real servers through the code that users run."""
