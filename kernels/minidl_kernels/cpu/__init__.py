"""Kernels for NumPy arrays, compiled by Numba for the CPU."""
