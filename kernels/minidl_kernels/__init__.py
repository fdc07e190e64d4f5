"""Compiled routines of minidl: arrays and numbers in, arrays out.

Nothing here knows tensors, layers or training, and nothing here imports `minidl`.

======================  ================================================================
`philox`                Philox4x32-10, the one random generator
`mask_contract`         addresses and masks of dropout, specified in NumPy
`number_contract`       uniform and normal numbers, specified in NumPy
`normal`                uniform and normal numbers from words, shared by both devices
`formulas`              elementwise formulas, shared by both devices
`checks`                checks of arguments, made by the backend
`placed`                numbers that kernels read from a device's memory
`threads`               number of threads of the CPU kernels
======================  ================================================================

The kernels are in `cpu` and `cuda`: the same files, functions and parameters.

======================  ================================================================
`dropout`               dropout
`noise`                 uniform and normal numbers, and noise of them
`dense`                 bias, activation and dropout of a dense layer
`cross_entropy`         softmax and cross-entropy of class numbers
`optimizers`            SGD, RMSprop and Adam
`gather`                samples of a batch, cast and scaled
`softmax`               softmax of rows
`moments`               running moments of outputs with dropout
`steps`                 numbers of the batch, and running totals
`launch`                the only functions that launch kernels
`recording`             recordings of launches, replayed without Python
======================  ================================================================

Besides, each device has machinery of its own.

======================  ================================================================
`cpu.jit`               compilation, cache and announcement of CPU kernels
`cpu.calls`             calls of compiled kernels by address
`cpu.current`           the recording in progress
`cpu.pool`              thread pool, and shares of the work
`cpu.blas`              OpenBLAS of NumPy's wheels, called from compiled code
`cpu.products`          matrix products
`cuda.reduction`        sums in a fixed order
`cuda.scalars`          numbers by value or from the device
======================  ================================================================

An import of this package or of the files of the first table does not import Numba.
"""
