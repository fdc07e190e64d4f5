"""A double of CuPy: the CUDA backend runs over it on a machine without a GPU.

=================  =================================================================================
`signatures`       what CuPy's functions take, read from the installed CuPy, which needs no driver
`arrays`           arrays over NumPy memory, with the attributes and refusals of CuPy's
`library`          the module: CuPy's names, computed by NumPy
`devices`          devices, streams, and the counts of transfers, synchronisations and launches
`install`          ``get_backend("cuda")`` over the double, kernels as compiled, for one test
`cases`            some 500 small programs; ``cupy_answers.json`` is what CuPy answered on a GPU
`record_answers`   asks it again
=================  =================================================================================

What the double refuses, CuPy refuses; where it is stricter, `test_answers` lists the cases. It does
not compute what NumPy has no counterpart for, and says so with NotImplementedError.
"""
