"""Benchmarks on real servers, through the code that users run. The figures are those of the README."""
