"""Compilation of functions into CUDA kernels."""

import ast
import inspect
from collections.abc import Callable
from typing import Any

from numba import cuda

from minidl_kernels.cuda import scalars


def inline(function: Callable[..., Any]) -> Any:
    """Compile a function into the kernels that call it."""
    return cuda.jit(device=True, inline="always")(function)


def inline_rounded(formula: Callable[..., Any]) -> Any:
    """Compile a formula into the kernels that call it, with each product rounded by itself.

    Otherwise the compilers choose for each kernel which products they fuse with a sum. Kernels of
    one formula then have different bits: one that gets its numbers by value, and one that reads
    them from the device.
    """
    tree = _Products().visit(ast.parse(inspect.getsource(formula)))
    code = compile(ast.fix_missing_locations(tree), inspect.getfile(formula), "exec")
    names = {**formula.__globals__, _MULTIPLY: scalars.multiply}
    exec(code, names)
    return inline(names[formula.__name__])


_MULTIPLY = "multiply"


class _Products(ast.NodeTransformer):
    """Replaces each product by a call."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Replace a product, after those within it."""
        self.generic_visit(node)
        if not isinstance(node.op, ast.Mult):
            return node
        return ast.Call(ast.Name(_MULTIPLY, ast.Load()), [node.left, node.right], [])
