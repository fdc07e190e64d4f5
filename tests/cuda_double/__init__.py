"""A double of CuPy: the CUDA backend runs over it on a machine without a GPU.

=================  =================================================================================
`signatures`       what CuPy's functions take, read from the installed CuPy, which needs no driver
`arrays`           arrays over NumPy memory, with the attributes and refusals of CuPy's
`library`          the module: CuPy's names, computed by NumPy
`devices`          devices, and the counts of transfers, synchronisations and launches
`pools`            memory: its owner and its pool
`capture`          streams, their capture and graphs; all work is done through it
`runtime`          ``cupy.cuda``
`nccl`             ``cupy.cuda.nccl`` between processes, over MPI
`cublaslt`         the library of matrix products: C functions over the memory of arrays
`install`          ``get_backend("cuda")`` over the double, kernels as compiled, for one test
`cases`            some 500 small programs; ``cupy_answers.json`` is what CuPy answered on a GPU
`record_answers`   asks it again
=================  =================================================================================

While a stream captures, results are poisoned and nothing is computed until the graph is launched.
What goes wrong with graphs on a GPU some time later raises `Misuse` at once.

What the double refuses, CuPy refuses; where it is stricter, `test_answers` lists the cases. It does
not compute what NumPy has no counterpart for, and says so with NotImplementedError.
"""
