"""Compiled routines of minidl: arrays and integers in, arrays out.

Nothing here knows a tensor, a layer or a training loop, and nothing here imports `minidl`.

======================  ================================================================
`philox`                the one scalar random generator, Philox4x32-10
`mask_contract`         which bit of it decides about which element, in plain NumPy
`threads`               on how many threads the kernels of the CPU work
`cpu.products`          products of matrices
`cpu.dense`             a dense layer with its activation and dropout in one pass
`cpu.dropout`           dropout on NumPy arrays
`cpu.cross_entropy`     softmax and cross-entropy of class numbers
`cpu.optimizers`        Adam, RMSprop and SGD, each in one pass
`cpu.gather`            the samples of a batch, cast and scaled
`cpu.jit`               how a CPU kernel is compiled, cached and announced
`cpu.pool`              the one pool of threads, and how work is shared out
`cpu.blas`              NumPy's own OpenBLAS, called from compiled code
`cuda.dense`            the end of a dense layer on device arrays, compiled by Numba for CUDA
`cuda.dropout`          dropout there
`cuda.cross_entropy`    softmax and cross-entropy there
`cuda.optimizers`       the same rules there
`cuda.gather`           the samples of a batch and their labels there
`cuda.reduction`        sums in a fixed order
`cuda.checks`           what the host functions say of arrays that do not fit
`cuda.launch`           the one place where a CUDA kernel is launched
======================  ================================================================

To import this package, `philox` or `mask_contract` does not import Numba; `cpu` and `cuda` do.
"""
