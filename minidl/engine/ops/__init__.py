"""Operations: each is one function that returns its value and how its gradient is computed.

An operation takes a backend and plain arrays, never a `Tensor`. Beside its value it returns one
vector-Jacobian product (VJP) for each input, or one joint VJP for all of them; `op` describes both.
Broadcasting is undone in the engine, once for all operations.

To add an operation, write one function in the file of its kind, and add its name to ``__all__`` of
that file. A test fails until ``tests/engine/op_table.py`` has a row for it.
"""

# ruff: noqa: F401, F403 (each file lists its operations in __all__)

from minidl.engine.ops.activations import *
from minidl.engine.ops.arithmetic import *
from minidl.engine.ops.choices import *
from minidl.engine.ops.functions import *
from minidl.engine.ops.moments import *
from minidl.engine.ops.networks import *
from minidl.engine.ops.op import MADE_OF_KERNELS, OPS, Op, Vjps, pull_back
from minidl.engine.ops.reductions import *
from minidl.engine.ops.shapes import *
