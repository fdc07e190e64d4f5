"""Selection by decisions that elements share."""

import functools

from minidl_kernels import checks

from minidl.backend.arrays import FLOATS, Array, DeviceArrays
from minidl.backend.kernel import kernel

AXES = 5  # of the arrays that the kernel takes


class Selection(DeviceArrays):
    """The part of a backend that applies decisions to the elements that share them."""

    def select(
        self,
        x: Array,
        keep: Array,
        scale: float,
        shift: float = -0.0,
        dropped: float = 0.0,
        *,
        out: Array | None = None,
    ) -> Array:
        """Return ``x * scale + shift`` where `keep` is not 0, and `dropped` elsewhere.

        The product is rounded before the sum. With a shift of -0.0 the sum changes no bit.

        Parameters
        ----------
        x : array
            float16, float32 or float64; float16 is computed in float32 and rounded once.
        keep : array
            From `keep_factors`: float64 for float64, else float32. Its shape broadcasts to that of
            `x`.
        scale, shift, dropped : float
            Rounded to the dtype of `keep`. They may be placed numbers.
        out : array, optional
            C-contiguous array for the result, of the shape and dtype of `x`, float32 or float64.

        Returns
        -------
        array
            C-contiguous, of the shape and dtype of `x`.

        Raises
        ------
        TypeError
            If an array has another dtype.
        ValueError
            If `keep` does not broadcast to the shape of `x`.
        """
        checks.check_dtype("select", "x", x, FLOATS)
        wide = self.widened(x)
        checks.check_like("select", "keep", keep, wide.dtype, keep.shape)
        shapes = _collapsed(x.shape, (1,) * (x.ndim - keep.ndim) + keep.shape)
        if shapes is None:
            raise ValueError(
                f"select: expected keep of a shape that broadcasts to {x.shape}, got {keep.shape}. "
                "Pass a length of 1 for each axis that shares its decisions."
            )
        if out is None:
            out = self.xp.empty(x.shape, wide.dtype)
        else:
            checks.check_output("select", "out", out, wide.dtype, x.shape)
        if x.size:
            select, (shape, own) = self._select, shapes
            if len(shape) > AXES:
                self.not_recorded(f"axes share decisions in more than {AXES} groups")
                select = functools.partial(Selection._select, self)
            wide, keep = self._contiguous(wide).reshape(shape), self._contiguous(keep).reshape(own)
            select(wide, keep, out.reshape(shape), scale, shift, dropped)
        return out.astype(x.dtype, copy=False)

    @kernel("selection")
    def _select(
        self, x: Array, keep: Array, out: Array, scale: float, shift: float, dropped: float
    ) -> None:
        scale, shift, dropped = (x.dtype.type(number) for number in (scale, shift, dropped))
        out[...] = self.xp.where(keep != 0, x * scale + shift, dropped)


@functools.lru_cache
def _collapsed(
    shape: tuple[int, ...], keep: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return both shapes with `AXES` axes, or more if needed; None if `keep` does not broadcast.

    Neighbouring axes become one axis if they all share their decisions, or if none does.

    Examples
    --------
    >>> _collapsed((32, 28, 28, 3), (32, 1, 1, 3))
    ((1, 1, 32, 784, 3), (1, 1, 32, 1, 3))
    """
    if len(shape) != len(keep):
        return None
    groups: list[tuple[int, int]] = []
    for length, own in zip(shape, keep, strict=True):
        if own not in (1, length):
            return None
        if length == 1:
            continue
        if groups and (own == 1) == (groups[-1][1] == 1):
            before = groups.pop()
            length, own = before[0] * length, before[1] * own
        groups.append((length, own))
    missing = max(0, AXES - len(groups))
    lengths, owns = zip(*[(1, 1)] * missing, *groups, strict=True)
    return lengths, owns
