"""Benchmarks of minidl, measured and predicted. Run from a checkout of the repository."""
