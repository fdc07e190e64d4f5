"""Automatic differentiation: operations with their gradients, and `Tensor`."""
