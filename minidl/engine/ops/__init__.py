"""Operations: each is one function that returns its value and how its gradient is computed.

An operation takes a backend and plain arrays, never a `Tensor`. Beside its value it returns one
vector-Jacobian product (VJP) for each input, or one joint VJP for all of them; `op` describes both.
Broadcasting is undone in the engine, once for all operations.

To add an operation, write one function in the file of its kind and list it here. The completeness
test then asks for its gradient check.
"""

# ruff: noqa: F401 (the imports are the list)

from minidl.engine.ops.arithmetic import add, divide, matmul, multiply, negative, power, subtract
from minidl.engine.ops.functions import clip, exp, log, log_softmax, relu, sigmoid, softmax, tanh
from minidl.engine.ops.networks import dense, dense_cross_entropy, dropout, sparse_cross_entropy
from minidl.engine.ops.op import OPS, JointVjp, Op, Vjp, Vjps, differentiable, pull_back
from minidl.engine.ops.reductions import Axis, max, mean, sum
from minidl.engine.ops.shapes import cast, getitem, reshape, transfer, transpose
