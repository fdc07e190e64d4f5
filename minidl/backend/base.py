"""The backend of a device: the one object that knows the device and its arrays.

`Backend` is complete. It is written with ``xp``, the array library of the device with NumPy's
functions. A public method checks its arguments and handles the edge cases. Then it calls the method
of the same name with an underscore, which computes in ``xp``. If the device has kernels, a method
decorated with `@kernel` runs the kernel instead. So kernels need no checks of their own, and ``xp``
is their reference in tests.
"""

import functools
from types import EllipsisType
from typing import Any

import numpy as np
from minidl_kernels import checks, mask_contract
from minidl_kernels.mask_contract import Address, PackedAddress
from minidl_kernels.placed import keeps_all, place_of

from minidl.backend.arrays import FLOATS, Array
from minidl.backend.kernel import kernel
from minidl.backend.optimizers import OptimizerRules
from minidl.backend.random_numbers import RandomNumbers
from minidl.backend.recordings import Recordings
from minidl.backend.selection import Selection

_INT64 = np.dtype("int64")

# The value that replaces all smaller ones.
_FLOORS = {"linear": -np.inf, "relu": 0.0}


class Backend(OptimizerRules, RandomNumbers, Recordings, Selection):
    """Arrays of one device, and the computations on them.

    From `matmul` on, methods expect that the device is the current one: enter ``active`` before.
    Inputs may have any strides and are not modified. `DeviceArrays` describes the attributes.
    """

    # The dtypes of the kernels; dropout takes float16 besides.
    KERNEL_TYPES = checks.KERNEL_TYPES
    _SOURCE_TYPES = KERNEL_TYPES | {np.dtype(kind + size) for kind in "iu" for size in "1248"}

    # ------------------------------------------------------------------------------ networks

    def dropout(self, x: Array, rate: float, address: Address, *, rescale: bool = True) -> Array:
        """Return `x` with elements dropped, each decided by its address.

        The gradient is the same call on the gradient.

        Parameters
        ----------
        x : array
            float16, float32 or float64. Axis 0 is the batch; fewer than two axes are one row.
        rate : float
            Probability of being dropped, in [0, 1]. With a `MovingRate`, which has no special
            cases, the same code runs at each rate.
        address : Address
            Address of the mask; its `row_offset` is the position of ``x[0]`` in the global batch.
        rescale : bool
            Whether to multiply kept elements by 1 / (1 - rate), which keeps the expectation.

        Returns
        -------
        array
            New and C-contiguous, of the shape and dtype of `x`. Dropped elements are +0.0.

        Raises
        ------
        TypeError
            If `x` has another dtype, or rate or address hold something else than numbers.
        ValueError
            If the rate or a part of the address is out of range.
        """
        checks.check_dtype("dropout", "x", x, FLOATS)
        rate = checks.check_rate(rate)
        address = mask_contract.check_address(x.shape, address)
        with self.active:
            if rate == 1:  # by selection: 0 * infinity would be NaN
                return self.xp.zeros(x.shape, x.dtype)
            if keeps_all(rate) or x.size == 0:
                self.not_recorded("dropout at rate 0 copies")
                return self.xp.array(x, order="C")
            # The contract computes float16 in float32 and rounds once.
            wide = self._contiguous(self.widened(x))
            out = self.xp.empty(x.shape, wide.dtype)
            scale = mask_contract.scale(rate, wide.dtype, rescale)
            self._dropout(wide, out, mask_contract.pack(address, rate), scale)
            return out.astype(x.dtype, copy=False)

    def keep_mask(self, shape: tuple[int, ...], rate: float, address: Address) -> Array:
        """Return the mask that `dropout` applies at this address: True is kept."""
        with self.active:
            ones = self.xp.ones(shape, "float32")
            # For a 0-d array, NumPy's comparison returns a scalar.
            return self.xp.asarray(self.dropout(ones, rate, address, rescale=False) != 0)

    def keep_factors(
        self, shape: tuple[int, ...], rate: float, address: Address, dtype: Any
    ) -> Array:
        """Return the mask as numbers for `select`: 0 is dropped, 1 is kept.

        The dtype is float64 for `dtype` float64, else float32, in which float16 is computed.
        """
        with self.active:
            # Not `self.ones`, which keeps its arrays: masks have many shapes.
            ones = self.xp.ones(shape, np.promote_types(dtype, "float32"))
            if keeps_all(rate):
                return ones
            return self.dropout(ones, rate, address, rescale=False)

    @kernel("dropout")
    def _dropout(self, x: Array, out: Array, address: PackedAddress, scale: Any) -> None:
        keep = self.xp.asarray(mask_contract.packed_mask(x.shape, address))
        out[...] = self.xp.where(keep, x * scale, 0)

    def matmul(
        self,
        a: Array,
        b: Array,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        out: Array | None = None,
    ) -> Array:
        """Return the product of matrices, stacks of matrices or vectors, as `numpy.matmul`.

        Parameters
        ----------
        a, b : array
            The operands.
        transpose_a, transpose_b : bool
            Whether to swap the last two axes first.
        out : array, optional
            C-contiguous array for the result, which may not overlap `a` or `b`.
        """
        checks.check_product(a, b, transpose_a, transpose_b, out)
        return self._matmul(a, b, transpose_a, transpose_b, out)

    def _matmul(
        self, a: Array, b: Array, transpose_a: bool, transpose_b: bool, out: Array | None
    ) -> Array:
        a = a.swapaxes(-1, -2) if transpose_a else a
        b = b.swapaxes(-1, -2) if transpose_b else b
        return self.xp.matmul(a, b, out=out)

    def dense(
        self,
        x: Array,
        weight: Array,
        bias: Array,
        *,
        activation: str,
        rate: float = 0.0,
        address: Address | None = None,
        rescale: bool = True,
    ) -> Array:
        """Return ``dropout(activation(x @ weight + bias))``.

        Parameters
        ----------
        x, weight, bias : array
            Shapes (rows, inputs), (inputs, units) and (units,), of one dtype, float32 or float64.
        activation : {"linear", "relu"}
            Relu keeps NaN.
        rate, address, rescale
            As in `dropout`; rate 0 needs no address.
        """
        dtype = x.dtype
        checks.check_matrix("dense", "x", x, "rows, inputs", self.KERNEL_TYPES)
        checks.check_like("dense", "weight", weight, dtype, (x.shape[1], *weight.shape[-1:]))
        checks.check_like("dense", "bias", bias, dtype, weight.shape[1:])
        floor = dtype.type(checks.check_choice("dense", "activation", activation, _FLOORS))
        rate = checks.check_rate(rate)
        shape, packed = (x.shape[0], weight.shape[1]), mask_contract.KEEP_ALL
        if not keeps_all(rate):
            address = mask_contract.check_address(shape, address)
            if rate == 1:
                return self.xp.zeros(shape, dtype)
            packed = mask_contract.pack(address, rate)
        y = self.xp.empty(shape, dtype)
        if y.size:
            x, weight, bias = map(self._contiguous, (x, weight, bias))
            scale = mask_contract.scale(rate, dtype, rescale)
            self._dense_layer(x, weight, bias, y, floor, packed, scale)
        return y

    def _dense_layer(self, x: Array, weight: Array, bias: Array, y: Array, *finish: Any) -> None:
        self._matmul(x, weight, False, False, y)
        self._bias_act_dropout(y, bias, *finish)

    @kernel("dense")
    def _bias_act_dropout(
        self, z: Array, bias: Array, floor: Any, address: PackedAddress, scale: Any
    ) -> None:
        z += bias
        self._dropout(self.xp.maximum(z, floor), z, address, scale)

    def bias_act_dropout_vjp(
        self, g: Array, y: Array, factor: float, g_bias: Array | None = None
    ) -> tuple[Array, Array]:
        """Return the gradients of `dense` with relu, for ``x @ weight`` and for the bias.

        Neither mask nor address is needed: the result of `dense` is positive exactly if the element
        was kept and the slope of relu is 1.

        Parameters
        ----------
        g, y : array
            Gradient of the result, and the result: shape (rows, units), float32 or float64.
        factor : float
            Factor of the kept elements, rounded to that dtype. It may be placed.
        g_bias : array, optional
            C-contiguous array for the second gradient, shape (units,).
        """
        who = "bias_act_dropout_vjp"
        checks.check_matrix(who, "y", y, "rows, units", self.KERNEL_TYPES)
        checks.check_like(who, "g", g, y.dtype, y.shape)
        g_bias = self.xp.empty(y.shape[1:], y.dtype) if g_bias is None else g_bias
        checks.check_output(who, "g_bias", g_bias, y.dtype, y.shape[1:])
        g_z = self.xp.empty(y.shape, y.dtype)
        if y.size:
            g, y = self._contiguous(g), self._contiguous(y)
            factor = y.dtype.type(factor) if place_of(factor) is None else factor
            self._bias_act_dropout_vjp(g, y, factor, g_z, g_bias)
        else:
            g_bias[...] = 0
        return g_z, g_bias

    @kernel("dense")
    def _bias_act_dropout_vjp(
        self, g: Array, y: Array, factor: Any, g_z: Array, g_bias: Array
    ) -> None:
        g_z[...] = self.xp.where(y > 0, g * factor, 0)
        g_z.sum(axis=0, out=g_bias)

    def softmax(self, x: Array) -> Array:
        """Return exp(x) divided by its sum over the last axis, without overflow.

        Parameters
        ----------
        x : array
            Floating numbers, at least one axis; float16 is computed in float32.
        """
        wide = self._contiguous(self.widened(x))
        out = self.xp.empty(x.shape, wide.dtype)
        if x.size:
            rows = -1, x.shape[-1]
            self._softmax(wide.reshape(rows), out.reshape(rows))
        return out.astype(x.dtype, copy=False)

    @kernel("softmax")
    def _softmax(self, z: Array, out: Array) -> None:
        powers = self.xp.exp(z - z.max(axis=1, keepdims=True))
        out[...] = powers / powers.sum(axis=1, keepdims=True)

    def cross_entropy(self, z: Array, bias: Array, labels: Array, sums: Array) -> None:
        """Write the mean loss of a batch and its number of correct predictions to `sums`.

        Parameters
        ----------
        z, bias : array
            Logits without their bias, and the bias: shapes (rows, classes), not empty, and
            (classes,), of one dtype, float32 or float64.
        labels : array
            Shape (rows,), integers in [0, classes). The loss of another label is NaN; the CPU
            raises ValueError instead.
        sums : array
            Shape (2,), C-contiguous, of the dtype of `z`. First the mean over the rows of
            -log softmax(z + bias) at the label; then the number of correct predictions (on ties,
            the first class is the prediction; a row with NaN is incorrect).
        """
        z, bias, labels = self._checked_logits("cross_entropy", z, bias, labels)
        checks.check_output("cross_entropy", "sums", sums, z.dtype, (2,))
        self._cross_entropy(z, bias, labels, sums)

    def cross_entropy_vjp(
        self, g: Array, z: Array, bias: Array, labels: Array, g_bias: Array | None = None
    ) -> tuple[Array, Array]:
        """Return the gradients of the mean of `cross_entropy` for `z` and for the bias.

        Parameters
        ----------
        g : array
            Gradient of the mean: one element, of the dtype of `z`.
        z, bias, labels : array
            As in `cross_entropy`.
        g_bias : array, optional
            C-contiguous array for the second gradient, shape (classes,).
        """
        who = "cross_entropy_vjp"
        z, bias, labels = self._checked_logits(who, z, bias, labels)
        g = g.reshape(-1)
        checks.check_like(who, "g", g, z.dtype, (1,))
        g_bias = self.xp.empty(bias.shape, z.dtype) if g_bias is None else g_bias
        checks.check_output(who, "g_bias", g_bias, z.dtype, bias.shape)
        g_z = self.xp.empty(z.shape, z.dtype)
        self._cross_entropy_vjp(self._contiguous(g), z, bias, labels, g_z, g_bias)
        return g_z, g_bias

    def _checked_logits(
        self, who: str, z: Array, bias: Array, labels: Array
    ) -> tuple[Array, Array, Array]:
        checks.check_matrix(who, "z", z, "rows, classes", self.KERNEL_TYPES)
        checks.check_not_empty(who, "z", z)
        checks.check_like(who, "bias", bias, z.dtype, z.shape[1:])
        checks.check_integers(who, "labels", labels, z.shape[:1])
        return self._contiguous(z), self._contiguous(bias), self._contiguous(labels)

    @kernel("cross_entropy")
    def _cross_entropy(self, z: Array, bias: Array, labels: Array, sums: Array) -> None:
        xp = self.xp
        logits = z + bias
        largest = logits.max(axis=1)
        one_hot = labels[:, None] == xp.arange(z.shape[1])
        shifted = logits - largest[:, None]
        at_label = xp.where(one_hot, shifted, 0).sum(axis=1)
        losses = xp.log(xp.exp(shifted).sum(axis=1)) - at_label
        sums[0] = xp.where(one_hot.any(axis=1), losses, np.nan).mean()
        sums[1] = ((logits.argmax(axis=1) == labels) & ~xp.isnan(largest)).sum()

    @kernel("cross_entropy")
    def _cross_entropy_vjp(
        self, g: Array, z: Array, bias: Array, labels: Array, g_z: Array, g_bias: Array
    ) -> None:
        xp = self.xp
        logits = z + bias
        powers = xp.exp(logits - logits.max(axis=1, keepdims=True))
        one_hot = labels[:, None] == xp.arange(z.shape[1])
        g_z[...] = (powers / powers.sum(axis=1, keepdims=True) - one_hot) * (g / len(z))
        g_z.sum(axis=0, out=g_bias)

    # ------------------------------------------------------------------------------ indexing

    def gather(
        self,
        source: Array,
        rows: Array,
        dtype: Any,
        *,
        scale: float = 1.0,
        offset: float = 0.0,
        labels: Array | None = None,
    ) -> tuple[Array, Array | None]:
        """Return a batch: ``source[rows] * scale + offset`` in `dtype`, and ``labels[rows]``.

        Parameters
        ----------
        source : array
            Numbers of any dtype, axis 0 counts the samples; from `dataset_array`.
        rows : array
            int64, shape (count,), each in [0, len(source)).
        dtype : dtype
            A sample is cast to it first.
        scale, offset : float
            Rounded to `dtype`, as are the product and then the sum.
        labels : array, optional
            Integers, one for each sample.
        """
        dtype = np.dtype(dtype)
        checks.check_like("gather", "rows", rows, _INT64, (rows.size,))
        out = self.xp.empty((rows.size, *source.shape[1:]), dtype)
        labels_out = None
        if labels is not None:
            checks.check_integers("gather", "labels", labels, source.shape[:1])
            labels, labels_out = self._contiguous(labels), self.xp.empty(rows.size, labels.dtype)
        if rows.size:
            # The kernels take data sets as they are: a copy of one would be too large.
            fits = source.dtype in self._SOURCE_TYPES and dtype in self.KERNEL_TYPES
            fits = fits and source.flags.c_contiguous
            gather = self._gather if fits else functools.partial(Backend._gather, self)
            if not fits:
                self.not_recorded("the samples have no kernel that gathers them")
            rows = self._contiguous(rows)
            gather(source, rows, labels, out, labels_out, scale=scale, offset=offset)
        return out, labels_out

    @kernel("gather")
    def _gather(
        self,
        source: Array,
        rows: Array,
        labels: Array | None,
        out: Array,
        labels_out: Array | None,
        *,
        scale: float,
        offset: float,
    ) -> None:
        out[...] = self.xp.take(source, rows, axis=0)
        if scale != 1 or offset != 0:
            out *= scale
            out += offset
        if labels_out is not None:
            labels_out[...] = self.xp.take(labels, rows)

    def index_add(self, shape: tuple[int, ...], index: Any, values: Array) -> Array:
        """Return zeros of `shape` to which `values` are added at ``[index]``.

        If `index` names an element several times, its values are added in their order: the same
        bits in every run, unlike with atomic additions.
        """
        parts = index if isinstance(index, tuple) else (index,)
        if all(part is None or isinstance(part, int | slice | EllipsisType) for part in parts):
            total = self.xp.zeros(shape, dtype=values.dtype)
            total[index] = values  # no element is named twice
            return total
        total = self._add_repeated(shape, index, self.widened(values))
        return total.astype(values.dtype, copy=False)

    def _add_repeated(self, shape: tuple[int, ...], index: Any, values: Array) -> Array:
        xp = self.xp
        size = int(np.prod(shape))
        places = xp.arange(size).reshape(shape)[index].ravel()
        values = values.ravel()
        order = xp.argsort(places, kind="stable")
        places, values = places[order], values[order]
        turn = xp.arange(places.size) - xp.searchsorted(places, places, side="left")
        total = xp.zeros(size, dtype=values.dtype)
        for now in range(int(turn.max()) + 1 if turn.size else 0):
            chosen = turn == now
            total[places[chosen]] += values[chosen]
        return total.reshape(shape)
