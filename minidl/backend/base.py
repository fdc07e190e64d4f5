"""The contract between minidl and a device.

A backend owns the arrays of one device and is the only object that knows which device that is. The
base class is written in terms of ``xp``, the device's array library with NumPy's functions; a
subclass says what ``xp`` is and how each kernel is reached.
"""

import contextlib
from types import EllipsisType, ModuleType
from typing import Any

import numpy as np

Array = Any
"""An array of the backend's device: ``numpy.ndarray`` or its twin on a GPU."""

FLOAT_TYPES = ("float16", "float32", "float64")


class DeviceError(RuntimeError):
    """Report that a device was asked for and cannot be used, with the reason and the remedy."""


class Backend:
    """Hold the arrays of one device and compute on them.

    Attributes
    ----------
    name : str
        The device as the user writes it: ``"cpu"``, ``"cuda:0"``.
    xp : module
        The array library; everything above writes ``backend.xp.exp(x)``.
    active : context manager
        Reusable; makes the device the current one while entered.
    working : context manager
        Reusable; entered once around much work, such as `fit`, it makes the single steps cheaper.
    """

    # What kernels other than dropout take.
    KERNEL_TYPES = frozenset({np.dtype("float32"), np.dtype("float64")})

    name: str
    xp: ModuleType
    active: contextlib.AbstractContextManager = contextlib.nullcontext()

    def __init__(self) -> None:
        self._ones: dict[tuple[tuple[int, ...], np.dtype], Array] = {}

    def __repr__(self) -> str:
        return f"<backend {self.name}>"

    @property
    def working(self) -> contextlib.AbstractContextManager:
        """Make the device the current one, once."""
        return self.active

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Copy by name: a copied model shares the backend of the original."""
        from minidl.backend import get_backend

        return get_backend, (self.name,)

    def is_array(self, value: object) -> bool:
        """Tell whether `value` is an array of this library."""
        return isinstance(value, self.xp.ndarray)

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        """Return `values` (array, list or number of the host) as an array of the device."""
        with self.active:
            return self.xp.asarray(values, dtype=dtype)

    def ones(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return a small array of ones that nobody may change: it is made once and kept."""
        key = shape, np.dtype(dtype)
        if key not in self._ones:
            self._ones[key] = self.xp.ones(shape, dtype)
        return self._ones[key]

    def from_dlpack(self, source: Any) -> Array:
        """Return an array that shares the memory of `source`, any object with ``__dlpack__``."""
        with self.active:
            return self.xp.from_dlpack(source)

    def to_numpy(self, array: Array) -> np.ndarray:
        """Return a copy of `array` on the host, which the caller owns."""
        raise NotImplementedError

    def synchronize(self) -> None:
        """Wait until the device has finished all work it was given."""
        raise NotImplementedError

    def dropout(
        self,
        x: Array,
        rate: float,
        address: Any,
        *,
        rescale: bool = True,
    ) -> Array:
        """Drop elements of `x` with probability `rate`, each decided by its address.

        Parameters
        ----------
        x : array
            float16, float32 or float64, any shape, axis 0 is the batch. Fewer than two axes are
            one row. It is not modified.
        rate : float
            Probability of being dropped, in [0, 1].
        seed, stream, step, row_offset : int
            The address: who draws, in which training step, and the place of ``x[0]`` in the
            global batch. Ranges: seed below 2**64, stream and step below 2**32.
        rescale : bool
            Multiply what is kept by 1 / (1 - rate), so that the expectation stays.

        Returns
        -------
        array
            C-contiguous, of the shape and dtype of `x`. Dropped elements are +0.0, whatever they
            held. The gradient is the same call on the gradient.

        Raises
        ------
        TypeError
            If `x` is not of a floating dtype.
        ValueError
            If the rate or a part of the address is out of range.
        """
        if x.dtype.name not in FLOAT_TYPES:
            raise TypeError(
                f"dropout: x must be one of {', '.join(FLOAT_TYPES)}, received {x.dtype}; "
                "cast it first"
            )
        address = address._asdict()
        with self.active:
            # The contract computes float16 in float32 and rounds once.
            wide = x.astype("float32") if x.dtype == "float16" else x
            kept = self._dropout_kernel(wide, rate, address, rescale)
            return kept.astype(x.dtype, copy=False)

    def _dropout_kernel(
        self, x: Array, rate: float, address: dict[str, int], rescale: bool
    ) -> Array:
        """Run the device's kernel, with the device active; `x` is float32 or float64."""
        raise NotImplementedError

    def matmul(
        self,
        a: Array,
        b: Array,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        out: Array | None = None,
    ) -> Array:
        """Return the product of two matrices, each transposed where that is said.

        It is written to `out` where that is given, which must be C-contiguous.
        """
        if a.ndim != 2 or b.ndim != 2:
            return a @ b
        return self.xp.dot(a.T if transpose_a else a, b.T if transpose_b else b, out=out)

    def dataset_array(self, values: np.ndarray) -> Array:
        """Return `values`, such as a data set, where `gather` reads it best: on the device.

        What is too large for that stays on the host.
        """
        return self.asarray(values)

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
            Numbers of any dtype, axis 0 counts the samples; from `keep`.
        rows : array
            int64, each in [0, len(source)).
        scale, offset : float
            Rounded to `dtype`, in which the product and then the sum are rounded too.
        labels : array, optional
            Class numbers, one for each sample; from `keep`.
        """
        if dtype in self.KERNEL_TYPES and (
            source.dtype.kind in "iu" or source.dtype in self.KERNEL_TYPES
        ):
            out = self.xp.empty((len(rows), *source.shape[1:]), dtype)
            return out, self._gather_kernel(source, rows, out, scale, offset, labels)
        x = self.xp.take(source, rows, axis=0).astype(dtype)
        if scale != 1:
            x *= scale
        if offset != 0:
            x += offset
        return x, None if labels is None else self.xp.take(labels, rows, axis=0)

    def _gather_kernel(
        self,
        source: Array,
        rows: Array,
        out: Array,
        scale: float,
        offset: float,
        labels: Array | None,
    ) -> Array | None:
        """Run the device's kernel, which fills `out`; return the labels of the rows."""
        raise NotImplementedError

    # What follows takes KERNEL_TYPES and is one kernel on each device.

    def dense(
        self,
        x: Array,
        weight: Array,
        bias: Array,
        *,
        activation: str,
        rate: float = 0.0,
        rescale: bool = True,
        **address: int,
    ) -> Array:
        """Return ``dropout(activation(x @ weight + bias))``.

        Parameters
        ----------
        x, weight, bias : array
            Shapes (rows, inputs), (inputs, units) and (units,), of one dtype.
        activation : {"linear", "relu"}
            What is applied before dropout.
        rate, rescale, **address
            As in `dropout`; at rate 0 nothing is drawn and no address is needed.
        """
        raise NotImplementedError

    def bias_act_dropout_vjp(
        self, g: Array, y: Array, factor: float, g_bias: Array | None = None
    ) -> tuple[Array, Array]:
        """Return the gradients for ``x @ weight`` and for the bias, which goes into `g_bias`.

        Neither mask nor address is needed: `y`, the result of `dense`, is positive exactly where
        the element was kept and the slope of relu is 1.

        Parameters
        ----------
        g, y : array
            The gradient for `y`, and `y`: shape (rows, units).
        factor : float
            What kept elements were multiplied with.
        """
        raise NotImplementedError

    def cross_entropy(self, z: Array, bias: Array, labels: Array, sums: Array) -> None:
        """Write the mean over the rows of -log softmax(z + bias) at the labels to ``sums[0]``.

        ``sums[1]`` becomes the number of rows whose label has the largest logit.

        Parameters
        ----------
        z, bias : array
            Shapes (rows, classes) and (classes,), of one dtype.
        labels : array
            Shape (rows,), integers in [0, classes).
        sums : array
            Shape (2,), of the dtype of `z`.
        """
        raise NotImplementedError

    def cross_entropy_vjp(
        self, g: Array, z: Array, bias: Array, labels: Array, g_bias: Array | None = None
    ) -> tuple[Array, Array]:
        """Return the gradients of `cross_entropy` for `z` and for the bias, given that of its mean.

        `g` has one element; the second result goes into `g_bias`.
        """
        raise NotImplementedError

    def sgd(
        self,
        weights: Array,
        gradients: Array,
        velocity: Array | None,
        *,
        rate: float,
        momentum: float,
        nesterov: bool,
        decay: float,
    ) -> None:
        """Update flat `weights` and `velocity` in place by the rule of `optimizers.SGD`.

        Before that, here as in the rules below, the weights are multiplied by `decay`.
        """
        raise NotImplementedError

    def rmsprop(
        self,
        weights: Array,
        gradients: Array,
        square: Array,
        *,
        rate: float,
        rho: float,
        epsilon: float,
        decay: float,
    ) -> None:
        """Update flat `weights` and `square` in place by the rule of `optimizers.RMSprop`."""
        raise NotImplementedError

    def adam(
        self,
        weights: Array,
        gradients: Array,
        mean: Array,
        square: Array,
        *,
        rate: float,
        beta_1: float,
        beta_2: float,
        epsilon: float,
        decay: float,
    ) -> None:
        """Update flat `weights`, `mean` and `square` in place by Adam's rule.

        `rate` is the step size with both bias corrections in it.
        """
        raise NotImplementedError

    def keep_mask(
        self,
        shape: tuple[int, ...],
        rate: float,
        address: Any,
    ) -> Array:
        """Return the mask that `dropout` applies at this address: True is kept."""
        with self.active:
            kept = self.dropout(self.xp.ones(shape, dtype="float32"), rate, address, rescale=False)
            return self.xp.asarray(kept != 0)  # NumPy makes a scalar of an array without axes

    def index_add(self, shape: tuple[int, ...], index: Any, values: Array) -> Array:
        """Return zeros of `shape` to which `values` are added at ``[index]``.

        Places that `index` names several times sum up one after the other in the order of
        `values`: the same bits in every run, which atomic additions would not give.
        """
        parts = index if isinstance(index, tuple) else (index,)
        if all(part is None or isinstance(part, int | slice | EllipsisType) for part in parts):
            total = self.xp.zeros(shape, dtype=values.dtype)
            total[index] = values  # no place is named twice
            return total
        return self._add_repeated(shape, index, values)

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
