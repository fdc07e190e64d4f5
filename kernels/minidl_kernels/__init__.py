"""Compiled routines of minidl: arrays and integers in, arrays out.

Nothing here knows a tensor, a layer or a training loop, and nothing here imports `minidl`.

======================  ================================================================
`philox`                the one scalar random generator, Philox4x32-10
`mask_contract`         which bit of it decides about which element, in plain NumPy
`cpu.dropout`           dropout on NumPy arrays, compiled by Numba for the CPU
`cpu.jit`               how a CPU kernel is compiled, cached and announced
`cuda.dropout`          dropout on device arrays, compiled by Numba for CUDA
`cuda.launch`           the one place where a CUDA kernel is launched
======================  ================================================================

To import this package, `philox` or `mask_contract` does not import Numba; `cpu` and `cuda` do.
"""
