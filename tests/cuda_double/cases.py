"""Small programs on an array library, and their outcomes: a value or a refusal.

`outcome` runs one with `xp` the array library, `np` NumPy and fresh arrays. What the real CuPy
answered on a GPU is kept in ``cupy_answers.json``, which `record_answers` wrote.
"""

import copy
import operator
import pickle
import weakref
from pathlib import Path
from types import ModuleType

import numpy as np

ANSWERS = Path(__file__).parent / "cupy_answers.json"
REFUSED = "refused"

CASES = """
xp.vecdot(f, f)
xp.block([f])
xp.unstack(f)
xp.nanpercentile(f, 5)
xp.float128
xp.ndarray.setfield
f.resize((2, 6))
f.setflags(write=False)
f.ctypes
f.to_device("cpu")
f.getfield("u1")
f.nothing
f.nothing = 1
xp.cuda.nothing
xp.cuda.runtime.nothing
xp.add(f, f, where=m)
xp.exp(f, where=m)
xp.exp(f, order="C")
xp.exp(f, subok=True)
xp.exp(f, f, f)
xp.exp()
xp.add(f)
xp.exp(f, dtype="float64")
xp.exp(f, xp.empty_like(f))
xp.exp(f, out=xp.empty_like(f))
xp.exp(i, out=xp.empty(3, "int64"))
xp.exp(f, casting="nothing")
xp.maximum(f, 0, dtype="float64")
xp.maximum(1, 2)
xp.logaddexp(0, -f)
xp.logaddexp(0.0, 1.0)
f.sum(where=m)
f.sum(initial=1)
f.max(initial=1)
f.max(where=m)
f.max(dtype="float64")
f.mean(where=m)
f.sum(axis=0, dtype="float64", keepdims=True)
f.sum(0)
f.sum(axis=(0, 1))
f.sum(axis=())
m.sum()
m.sum(dtype="float64")
h.sum()
f.argmax(axis=-1)
f.argmax(axis=(0, 1))
f.argmax(axis=-1, dtype="int32")
f.argsort(kind="stable")
f.argsort(kind="quicksort")
f.argsort(axis=0, stable=True)
xp.argsort(i, kind="stable")
xp.argsort(i, axis=0, order="a")
xp.sort(i, kind="mergesort")
f.clip(0, 1)
f.clip(0)
xp.clip(f, 0, 1)
xp.clip(f, None, None)
xp.clip(f, min=0, max=1)
xp.clip(f, 0, 1, dtype="float64")
xp.clip(f, 0, 1, casting="unsafe")
xp.clip(f, np.float64(0), np.float64(1))
f.astype("float64", copy=False) is f
f.astype("float32", copy=False) is f
f.astype("float32", subok=False)
f.astype("float64", casting="safe")
f.astype("int32", casting="safe")
f.astype("longdouble")
f.astype("datetime64[s]")
f.astype(object)
f.astype("U3")
xp.astype(f, "float64")
xp.zeros(3, dtype=object)
xp.zeros(3, dtype="longdouble")
xp.zeros(3, dtype="float32", like=f)
xp.zeros(3, dtype="float32", device=0)
xp.zeros((2, 0))
xp.zeros(shape=2)
xp.full((2,), 3)
xp.full((2,), 3.5, "float32")
xp.ones((2, 3), dtype="float16")
xp.ones((2, 3), "bool")
xp.empty_like(f).shape
xp.zeros_like(f, dtype="int8")
xp.zeros_like(f, shape=(2,))
xp.zeros_like(n)
xp.zeros_like(f, subok=True)
xp.arange(3)
xp.arange(1, 4, 2)
xp.arange(3, dtype="float32")
xp.arange(3, device=0)
xp.linspace(0, 1, 3)
xp.array([1.5, 2])
xp.array([[1, 2], [3]])
xp.array([1, "a"])
xp.array(["a"])
xp.array(None)
xp.array(n)
xp.array(n, dtype="float64", copy=True, order="C", subok=False, ndmin=3)
xp.array(n, like=f)
xp.array(f, subok=True)
xp.array([f, f])
xp.array([f, n])
xp.array([f[0, 0], f[0, 1]])
xp.asarray(n)
xp.asarray(n, "float64")
xp.asarray(f) is f
xp.asarray(f, dtype="float32") is f
xp.asarray(f, dtype="float64")
xp.asarray(3)
xp.asarray(3.5)
xp.asarray(True)
xp.asarray(np.float32(3))
xp.asarray([])
xp.asarray([True, False])
xp.asarray(n[:, ::2]).flags.c_contiguous
xp.asarray(n.T).flags.c_contiguous
xp.asarray(object())
xp.asanyarray(n)
xp.ascontiguousarray(f.T)
xp.ascontiguousarray(f) is f
xp.ascontiguousarray(n)
xp.ascontiguousarray([1, 2])
xp.asnumpy(f)
xp.asnumpy(n)
xp.asnumpy([1, 2])
xp.asnumpy(3)
np.asarray(f)
np.array(f)
np.array([f, f])
np.float32(f[0, 0])
list(f[0])
f.tolist()
f.item()
f[0, 0].item()
f.item(0)
f.get()
f.get(order="F")
float(f[0, 0])
int(f[0, 1])
bool(m[0, 0])
complex(f[0, 0])
float(f)
bool(f)
bool(f[0])
bool(xp.zeros(0))
operator.index(i[0])
[10, 20, 30][i[0]]
range(i[0])
len(f)
len(f[0, 0])
iter(f[0, 0])
hash(f)
f + n
n + f
f * n
n * f
n @ f.T
f @ n.T
f == n
n == f
n < f
f -= n
f += np.float32(1)
n += f
f + [1, 2, 3, 4]
[1, 2, 3, 4] + f
f + "a"
f + None
f == None
f != None
f == "a"
f + 1
f + 1.5
f + np.float32(1.5)
f + np.float64(1.5)
np.float64(1.5) + f
np.float32(1.5) * f
np.int64(2) ** f
f + True
f + np.bool_(True)
f + 1j
f + np.array(1.5)
np.array(1.5) + f
np.array(1.5, "float32") * f
f + 10**30
i + 2**40
i + 1
i + 1.5
i / 2
i // 2
i ** 2
i ** -1
2 ** f
f ** 2
f ** 0.5
f ** f
h + 1.5
h + np.float32(1.5)
h * f
h + d
f + d
m + m
m - m
-m
~m
-f
+f
abs(-f)
m & (f > 1)
m * 1
m * 1.5
f % 2
divmod(f, 2)
f @ f.T
f @ f
f[0] @ f[0]
f @ f[0]
3 @ f
f.dot(f.T)
f.dot(n.T)
f @ 2
f += f
f += 1
f += d
i += 1.5
i /= 2
i *= 2
m += 1
f *= np.float64(2)
f += f[0]
f += xp.ones((2, 3, 4), "float32")
f @= f
f &= f
f[0]
f[0, 0]
f[0, 0].shape
f[1:, ::2]
f[..., 0]
f[None].shape
f[:, None, 1].shape
f[-1]
f[5]
f[0, 9]
f[0, 0, 0]
f[m]
f[m[:, 0]]
f[[0, 2]]
f[[True, False, True]]
f[np.array([0, 2])]
f[np.array([True, False, True])]
f[xp.array([0, 2])]
f[xp.array([0, 2]), xp.array([1, 3])]
f[xp.array([0.5])]
f[xp.array(1)]
f[xp.array(1), 0]
f[xp.array(True)]
f[np.array(True)]
f[np.array(1)]
f[np.int64(1)]
f[np.bool_(True)]
f[True]
f[True].shape
f[False].shape
f[()].shape
f[1.0]
f["a"]
f[i[0]:]
f[(0, slice(None), None)].shape
f[[]]
f[xp.array([], dtype="int64")]
f[m[0]]
f[:, m[0]]
f[0] = 5; r = f
f[0, 0] = 5; r = f
f[m] = 5; r = f
f[m] = f[m] * 2; r = f
f[m] = np.float32(7); r = f
f[xp.array([0, 2])] = 5; r = f
f[[0, 2]] = f[:2]; r = f
f[0] = n[0]; r = f
f[...] = n; r = f
f[:] = n; r = f
f[...] = np.array(2.0); r = f
f[m] = n[0, :3]; r = f
f[0] = [1, 2, 3, 4]; r = f
f[0] = f[1]; r = f
f[...] = d; r = f
i[...] = xp.array([1.5, 2.5, 3.5]); r = i
i[0] = 1.5; r = i
f[0] = 1j; r = f
f[0] = None
f[0] = "a"
f[...] = f[:2]
f[5] = 1
f.fill(3); r = f
f.fill(n)
f.reshape(4, 3)
f.reshape((4, 3))
f.reshape([4, 3])
f.reshape(-1)
f.reshape(5)
f.reshape(4, 3, order="F")
f.reshape(shape=(4, 3))
f.T.reshape(-1)
f.T.ravel()
f.ravel()
f.ravel().base is f
f.flatten()
f.transpose()
f.transpose(None)
f.transpose((1, 0))
f.transpose([1, 0])
f.transpose(1, 0)
f.transpose(0)
f.T.shape
f.mT.shape
f.swapaxes(0, 1)
f.swapaxes(-1, -2).flags.c_contiguous
f.squeeze().shape
f.repeat(2, axis=0).shape
f.take(xp.array([0, 1]), axis=0)
f.take([0, 1], axis=0)
f.take(np.array([0, 1]), axis=0)
f.copy()
f.copy() is f
f.view("int32").dtype
f.view().base is f
f[0].base is f
f[0][1:].base is f
f.base
f.reshape(4, 3).base is f
f.nbytes, f.itemsize, f.ndim, f.size, f.strides, f.shape
f.dtype
f.device
f.flags.c_contiguous, f.flags.f_contiguous, f.flags.owndata
f.flags["C_CONTIGUOUS"]
f.flags.writeable
f.T.flags.c_contiguous
f.flags.contiguous
type(f.sum())
f.sum().shape
type(f.shape)
xp.sum(f)
xp.sum(n)
xp.sum([1, 2])
xp.sum(3)
xp.mean(f, axis=0)
xp.exp(n)
xp.exp([1.0])
xp.exp(1.0)
xp.exp(np.float32(1))
xp.exp(np.array(1.0))
xp.exp("a")
xp.exp(i)
xp.exp(h)
xp.exp(m)
xp.sqrt(i)
xp.tanh(f)
xp.maximum(f, n)
xp.maximum(f, None)
xp.where(m, f, 0)
xp.where(m, f, 0.5)
xp.where(m, i[0], 0)
xp.where(m, 1, 0)
xp.where(m, 1.5, 0)
xp.where(m, f, d)
xp.where(m, f, np.float64(0))
xp.where(m, f, n)
xp.where(m, n, f)
xp.where(n > 1, f, 0)
xp.where(True, f, 0)
xp.where(f, f, 0)
xp.where(m, f)
xp.where(m)[0]
xp.concatenate([f, f])
xp.concatenate([f, d])
xp.concatenate((f.ravel(), i))
xp.concatenate([f, n])
xp.concatenate([])
xp.concatenate([f, [1]])
xp.stack([f, f]).shape
xp.stack([f, n])
xp.broadcast_to(f[0], (3, 4))
xp.broadcast_to(n[0], (3, 4))
xp.broadcast_to(f[0], (3, 4), subok=True)
xp.broadcast_to(2, (3, 4))
xp.broadcast_to(f, (2, 2))
xp.take_along_axis(f, f.argsort(), axis=-1)
xp.take_along_axis(f, f.argsort(), 1)
xp.take_along_axis(f, f, axis=-1)
xp.take_along_axis(f, i, axis=-1)
xp.take_along_axis(f, n.argsort(), axis=-1)
xp.take_along_axis(f, xp.array([[0], [1], [2]], "uint8"), axis=-1)
xp.searchsorted(i, i)
xp.searchsorted(i, i, side="right")
xp.searchsorted(i, 2)
xp.searchsorted(i, np.int64(2))
xp.searchsorted(i, n[0])
xp.searchsorted(n[0], f)
xp.searchsorted(xp.arange(0), xp.arange(0))
xp.allclose(f, f)
xp.array_equal(f, f)
xp.array_equal(f, n)
xp.allclose(f, n)
xp.isnan(f).any()
xp.any(f)
xp.all(f)
np.exp(f)
np.add(f, 1)
np.add(f, n)
np.maximum(f, 0)
np.sum(f)
np.mean(f)
np.where(m, f, 0)
np.concatenate([f, n])
np.shape(f)
np.ndim(f)
np.zeros_like(f)
np.isnan(f)
np.argmax(f)
np.allclose(f, n)
np.array_equal(f, n)
np.testing.assert_array_equal(f, n)
np.asarray([f[0, 0]])
np.float64(f.sum())
np.isfinite(f).all()
np.prod(f.shape)
np.vecdot(f, f)
np.from_dlpack(f)
xp.from_dlpack(n)
xp.from_dlpack(f).base is f
f.__dlpack_device__()
f.__array__()
f.__index__()
copy.copy(f)
copy.deepcopy(f)
pickle.loads(pickle.dumps(f))
weakref.ref(f)() is f
repr(f)
str(f)
repr(f[0, 0])
f"{f[0, 0]:.2f}"
f"{f[0, 0]}"
"%d" % i[0]
round(f[0, 1])
f.round(1)
isinstance(f, np.ndarray)
isinstance(f, xp.ndarray)
isinstance(f[0, 0], xp.ndarray)
isinstance(f.sum(), np.generic)
1.0 in f
max(f[0])
sum(f[0])
sorted(f[0])
f > 1
f[f > 1]
3 < f
not f.any()
f if f.any() else 0
xp.errstate
xp.finfo(xp.float32).eps
xp.float32 is np.float32
xp.newaxis
xp.pi
xp.inf
xp.float_
xp.result_type(f, 1.5)
xp.can_cast("f4", "f8")
xp.ndim(f)
xp.shape(f)
xp.size(f)
xp.cuda.get_current_stream().ptr
xp.cuda.runtime.getDeviceCount() > 0
xp.cuda.Device(0).id
xp.cuda.Device(99).use()
xp.cuda.Device().id
xp.matmul(f, f.T)
xp.matmul(f, n.T)
xp.matmul(f, f.T, where=m)
xp.matmul(f, f.T, dtype="float64").dtype
xp.matmul(i, i)
xp.matmul(m, m.T)
xp.dot(f, f.T)
xp.dot(f, 2)
xp.tensordot(f, f, 2)
xp.einsum("ij,ij->", f, f)
xp.outer(i, i)
xp.cumsum(f)
xp.bincount(i)
xp.unique(i)
xp.unique(xp.array([1.0, 1.0, 2.0]))
xp.nonzero(m)[0]
xp.count_nonzero(m)
xp.flatnonzero(m)
xp.eye(2)
xp.tri(2)
xp.split(f, 3)[0]
xp.max(f, axis=0)
xp.max(f, initial=1)
xp.min(f)
xp.amax(f)
xp.prod(f)
xp.var(f)
xp.std(f)
xp.median(f)
xp.percentile(f, 50)
xp.sign(f - 1)
xp.expand_dims(f, 0).shape
xp.moveaxis(f, 0, 1).shape
xp.reshape(f, (4, 3))
xp.reshape(n, (4, 3))
xp.reshape(f, shape=(4, 3))
xp.transpose(f)
xp.squeeze(f[None]).shape
xp.ravel(f)
xp.isclose(f, f).all()
xp.copyto(f, 3); r = f
xp.copyto(f, d); r = f
xp.may_share_memory(f, f)
xp.shares_memory(f, f[0])
xp.isscalar(f[0, 0])
xp.add(f, f, f)
xp.multiply(f, 2, out=f)
xp.subtract(f, f, out=n)
xp.subtract(i, 0.5, out=i)
xp.power(f, 2)
xp.floor_divide(f, 2)
xp.true_divide(i, 2)
xp.square(f)
xp.reciprocal(f + 1)
xp.empty((2, 2), "float32").shape
xp.empty(2, order="F").shape
xp.empty((2, -1))
xp.ones(2.5)
xp.ones((2, 3), order="K")
""".strip().splitlines()


def arrays(xp: ModuleType) -> dict:
    """Return the names that a program may use."""
    n = np.arange(12, dtype="float32").reshape(3, 4)
    return {
        "xp": xp,
        "np": np,
        "copy": copy,
        "operator": operator,
        "pickle": pickle,
        "weakref": weakref,
        "n": n,
        "f": xp.asarray(n.copy()),
        "d": xp.asarray(n.astype("float64")),
        "h": xp.asarray(n.astype("float16")),
        "i": xp.asarray(np.array([1, 2, 3])),
        "m": xp.asarray(n % 2 == 0),
    }


def outcome(program: str, xp: ModuleType) -> str:
    """Return the outcome of `program` as one line: its value with type and dtype, or a refusal."""
    names = arrays(xp)
    try:
        if "; r = " in program:
            exec(program, names)
            value = names["r"]
        elif any(f" {sign}= " in program for sign in "+-*/@&"):
            exec(program, names)
            value = names[program[0]]
        elif " = " in program:
            exec(program, names)
            value = None
        else:
            value = eval(program, names)
        return described(value, xp)
    except Exception as refusal:
        kind = next(kind for kind in type(refusal).__mro__ if kind.__module__ == "builtins")
        first_line = (str(refusal).splitlines() or [""])[0]
        return f"{REFUSED} {kind.__name__}: {first_line}"


def described(value: object, xp: ModuleType) -> str:
    """Return a value's kind, dtype, shape and numbers, the same text for every library."""
    if isinstance(value, xp.ndarray):
        return "device " + described(xp.asnumpy(value), xp)
    if isinstance(value, np.ndarray):
        numbers = np.array2string(value.ravel(), precision=4, max_line_width=10**6)
        return f"array {value.dtype} {value.shape} {numbers}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__}({', '.join(described(part, xp) for part in value)})"
    if isinstance(value, type):
        return f"type {value.__name__}"
    if isinstance(value, int | float | complex | str | np.generic | np.dtype | None):
        return f"{type(value).__name__} {value}"
    return type(value).__name__
