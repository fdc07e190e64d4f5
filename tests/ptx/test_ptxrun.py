"""Tests of ptxrun: numba-cuda (and NVRTC) kernels, compiled to PTX and executed on the CPU, against NumPy."""
import math
import struct
import sys
import os
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip('numba_cuda', reason='numba-cuda is not installed (the extra cuda-double): nothing compiles to PTX')

from numba import cuda, types
from numba import float32, float64, int32, int64, uint32, uint64

sys.path.insert(0, os.path.dirname(__file__))
import ptxrun as P
from ptxrun import Kernel

f1, f2d, d1 = float32[::1], float32[:, ::1], float64[::1]
u1, i1, l1 = uint32[::1], int32[::1], int64[::1]
rng = np.random.default_rng(0)


def F(n, lo=-4, hi=4): return rng.uniform(lo, hi, n).astype('f4')


LTO = bool(int(os.environ.get('PTXRUN_LTO', '0')))        # PTXRUN_LTO=1 runs every kernel through nvJitLink's optimiser


def go(fn, sig, grid, block, *args, lto=LTO, **kw):
    return Kernel.from_numba(fn, sig, lto=lto).launch(grid, block, *args, **kw)


# ------------------------------------------------------------------ elementwise, grids
def test_saxpy_with_idle_threads_equals_numpy():
    def k(x, y, a, o):
        i = cuda.grid(1)
        if i < o.size: o[i] = a * x[i] + y[i]
    K = Kernel.from_numba(k, (f1, f1, float32, f1))
    for n in (1, 31, 32, 33, 255, 256, 257, 1000):
        x, y, o = F(n), F(n), np.zeros(n, 'f4')
        st = K.launch((n + 127) // 128, 128, x, y, np.float32(1.7), o)
        ref = (np.float64(np.float32(1.7)) * x + y).astype('f4')        # one rounding: the compiler made an FMA
        assert (o == ref).all()
        assert st.global_store_bytes == 4 * n and st.global_load_bytes == 8 * n


def test_grid_of_two_axes_with_strides_equals_numpy():
    def k(a, o):
        j, i = cuda.grid(2)
        if i < o.shape[0] and j < o.shape[1]: o[i, j] = a[i, j] * float32(2) + i * 100 + j
    a = F(40 * 60).reshape(40, 60)[::2, 1::3]
    o = np.zeros(a.shape, 'f4')
    Kernel.from_numba(k, args=(a, o)).launch((2, 3), (16, 8), a, o)
    i, j = np.indices(a.shape)
    assert np.allclose(o, a * 2 + i * 100 + j, rtol=1e-6)


def test_grid_of_three_axes_numbers_its_threads():
    def k(o):
        x, y, z = cuda.grid(3)
        o[z, y, x] = cuda.blockIdx.x + 10 * cuda.blockIdx.y + 100 * cuda.blockIdx.z + 1000 * cuda.threadIdx.z
    o = np.zeros((4, 6, 4), 'i4')
    Kernel.from_numba(k, args=(o,)).launch((2, 3, 2), (2, 2, 2), o)
    z, y, x = np.indices(o.shape)
    assert (o == x // 2 + 10 * (y // 2) + 100 * (z // 2) + 1000 * (z % 2)).all()


def test_grid_stride_loop_covers_all_elements():
    def k(x, o):
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)): o[i] = x[i] * x[i]
    x, o = F(5000), np.zeros(5000, 'f4')
    st = go(k, (f1, f1), 3, 96, x, o)
    assert (o == x * x).all() and 0.9 < st.simt_efficiency <= 1


def test_views_with_negative_strides_equal_numpy():
    def k(x, o):
        i = cuda.grid(1)
        if i < o.size: o[i] = x[i]
    base = F(400)
    x, o = base[::-2], np.zeros(200, 'f4')
    Kernel.from_numba(k, args=(x, o)).launch(2, 128, x, o)
    assert (o == x).all()
    y = base.copy()
    Kernel.from_numba(k, args=(y[1:200], y[200:399])).launch(2, 128, y[1:200], y[200:399])     # two views of one buffer
    assert (y[200:399] == base[1:200]).all()


def test_tuples_and_scalars_are_passed():
    def k(t, b, h, o):
        if cuda.grid(1) == 0:
            o[0] = t[0]; o[1] = t[1]; o[2] = 1 if b else 0; o[3] = h
    o = np.zeros(4)
    go(k, (types.Tuple((int32, float64)), types.boolean, types.int8, d1), 1, 1, (-5, 2.5), True, -7, o)
    assert o.tolist() == [-5, 2.5, 1, -7]


# ------------------------------------------------------------------ integers
def test_integers_are_promoted_as_in_numba():
    def k(a, b, lo, hi, w, s):
        i = cuda.grid(1)
        if i < a.size:
            p = a[i] * b[i]                      # numba: uint32*uint32 -> uint64
            lo[i] = p; hi[i] = p >> 32
            w[i] = uint32(a[i] + b[i]); s[i] = a[i] + b[i]
    n = 1000
    a, b = (rng.integers(0, 2 ** 32, n, dtype='u4') for _ in range(2))
    lo, hi, w, s = np.zeros(n, 'u4'), np.zeros(n, 'u4'), np.zeros(n, 'u4'), np.zeros(n, 'u8')
    go(k, (u1, u1, u1, u1, u1, uint64[::1]), 8, 128, a, b, lo, hi, w, s)
    p = a.astype('u8') * b
    assert (lo == p.astype('u4')).all() and (hi == p >> np.uint64(32)).all()
    assert (w == a + b).all() and (s == a.astype('u8') + b).all()


def test_signed_division_and_shifts_equal_python():
    def k(a, b, q, r, sh, sl):
        i = cuda.grid(1)
        if i < a.size:
            q[i] = a[i] // b[i]; r[i] = a[i] % b[i]; sh[i] = a[i] >> (b[i] & 31); sl[i] = a[i] << (b[i] & 15)
    n = 777
    a, b = rng.integers(-10 ** 9, 10 ** 9, n, dtype='i4'), rng.integers(-1000, 1000, n, dtype='i4')
    b[b == 0] = 3
    outs = [np.zeros(n, 'i8') for _ in range(4)]
    go(k, (i1, i1, l1, l1, l1, l1), 7, 128, a, b, *outs)
    A, B = a.astype('i8'), b.astype('i8')
    for o, ref in zip(outs, (A // B, A % B, A >> (B & 31), A << (B & 15))): assert (o == ref).all()


def test_bit_intrinsics_equal_python():
    def k(a, o):
        i = cuda.grid(1)
        if i < a.size:
            o[i, 0] = cuda.popc(a[i]); o[i, 1] = cuda.brev(a[i]); o[i, 2] = cuda.clz(a[i]); o[i, 3] = cuda.ffs(a[i])
    a = np.r_[np.uint32(0), np.uint32(1), np.uint32(2 ** 31), rng.integers(0, 2 ** 32, 500, dtype='u4')].astype('u4')
    o = np.zeros((a.size, 4), 'u4')
    Kernel.from_numba(k, args=(a, o)).launch(4, 128, a, o)
    for x, r in zip(a.tolist(), o.tolist()):
        assert r == [bin(x).count('1'), int(f'{x:032b}'[::-1], 2), 32 - x.bit_length(), (x & -x).bit_length()]


# ------------------------------------------------------------------ Philox4x32-10
KAT = [((0,) * 4, (0,) * 2, (0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8)),
       ((0xffffffff,) * 4, (0xffffffff,) * 2, (0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd)),
       ((0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344), (0xa4093822, 0x299f31d0), (0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1))]


def philox_np(c, k):
    c, k = [np.asarray(x, 'u8') for x in c], [int(x) for x in k]
    m, s = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> s) ^ c[1] ^ np.uint64(k[0]), p1 & m, (p0 >> s) ^ c[3] ^ np.uint64(k[1]), p0 & m]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return [x.astype('u4') for x in c]


@cuda.jit(device=True)
def philox_naive(c0, c1, c2, c3, k0, k1):                 # plain Python literals: everything is 64-bit, masks by hand
    c0, c1, c2, c3, k0, k1 = uint64(c0), uint64(c1), uint64(c2), uint64(c3), uint64(k0), uint64(k1)
    m = uint64(0xFFFFFFFF)
    for _ in range(10):
        p0 = uint64(0xD2511F53) * c0
        p1 = uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> uint64(32)) ^ c1 ^ k0, p1 & m, (p0 >> uint64(32)) ^ c3 ^ k1, p0 & m
        k0 = (k0 + uint64(0x9E3779B9)) & m
        k1 = (k1 + uint64(0xBB67AE85)) & m
    return c0, c1, c2, c3


M0, M1, W0, W1, S32 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57), np.uint32(0x9E3779B9), np.uint32(0xBB67AE85), np.uint64(32)


@cuda.jit(device=True)
def philox_careful(c0, c1, c2, c3, k0, k1):               # every value cast back to uint32 as soon as it is made
    for _ in range(10):
        p0 = M0 * c0
        p1 = M1 * c2
        c0 = uint32(uint32(p1 >> S32) ^ c1 ^ k0)
        c1 = uint32(p1)
        c2 = uint32(uint32(p0 >> S32) ^ c3 ^ k1)
        c3 = uint32(p0)
        k0 = uint32(k0 + W0)
        k1 = uint32(k1 + W1)
    return c0, c1, c2, c3


@pytest.mark.parametrize('philox', [pytest.param(philox_naive, marks=pytest.mark.slow), philox_careful])
def test_philox_returns_the_known_answers(philox):
    def k(c, key, o):
        i = cuda.grid(1)
        if i < c.shape[0]:
            r = philox(c[i, 0], c[i, 1], c[i, 2], c[i, 3], key[i, 0], key[i, 1])
            o[i, 0] = r[0]; o[i, 1] = r[1]; o[i, 2] = r[2]; o[i, 3] = r[3]
    c, key, want = (np.array([v[j] for v in KAT], 'u4') for j in range(3))
    o = np.zeros_like(c)
    u2 = uint32[:, ::1]
    st = go(k, (u2, u2, u2), 1, 32, c, key, o)
    assert (o == want).all()
    assert st.count('f64|f32') == 0
    assert (np.array(philox_np(want.T[:, 0], (7, 8))).shape == (4,))


@pytest.mark.parametrize('philox', [pytest.param(philox_naive, marks=pytest.mark.slow), philox_careful])
def test_philox_dropout_equals_numpy(philox):
    def k(x, o, p, scale, seed0, seed1):
        i = cuda.grid(1)
        if 4 * i < x.size:
            z = uint32(0)
            r = philox(uint32(i), z, z, z, seed0, seed1)
            for j in range(4):
                e = 4 * i + j
                if e < x.size:
                    u = float32(uint32(r[j]) >> uint32(8)) * float32(2.0 ** -24)
                    o[e] = x[e] * scale if u >= p else float32(0)
    n = 10007
    x, o = F(n), np.full(n, 9, 'f4')
    st = go(k, (f1, f1, float32, float32, uint32, uint32), (n // 4 + 128) // 128, 128, x, o, 0.3, 1 / 0.7, 5, 6)
    r = np.stack(philox_np((np.arange(n // 4 + 1), 0, 0, 0), (5, 6)), 1).ravel()[:n]
    u = (r >> np.uint32(8)).astype('f4') * np.float32(2 ** -24)
    ref = np.where(u >= np.float32(0.3), x * np.float32(1 / 0.7), np.float32(0)).astype('f4')
    assert (o == ref).all() and 0.68 < (o != 0).mean() < 0.72
    assert st.count('f64') == 0


def test_float64_contamination_is_visible():
    def k(x, o):
        i = cuda.grid(1)
        if i < x.size: o[i] = x[i] * 0.1
    n = 512
    x, o = F(n), np.zeros(n, 'f4')
    st = go(k, (f1, f1), 4, 128, x, o)
    assert (o == (x.astype('f8') * 0.1).astype('f4')).all() and st.count('f64') == 3 * n
    assert (o != x * np.float32(0.1)).any()


# ------------------------------------------------------------------ shared memory, barriers
def test_transpose_through_shared_memory_equals_numpy():
    def k(a, o):
        t = cuda.shared.array((32, 33), float32)
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        j, i = cuda.blockIdx.x * 32 + x, cuda.blockIdx.y * 32 + y
        for r in range(0, 32, 8):
            if i + r < a.shape[0] and j < a.shape[1]: t[y + r, x] = a[i + r, j]
        cuda.syncthreads()
        j, i = cuda.blockIdx.y * 32 + x, cuda.blockIdx.x * 32 + y
        for r in range(0, 32, 8):
            if i + r < o.shape[0] and j < o.shape[1]: o[i + r, j] = t[x, y + r]
    a = F(100 * 77).reshape(100, 77)
    o = np.zeros((77, 100), 'f4')
    st = go(k, (f2d, f2d), (3, 4), (32, 8), a, o, racecheck=True)
    assert (o == a.T).all() and st.barriers == 12
    req, _, wave, _ = st.mem['shared', 'ld']
    assert wave == req                                    # the 33-wide tile has no bank conflicts


def test_bank_conflicts_are_counted():
    def k(a, o):
        t = cuda.shared.array((32, 32), float32)
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        t[y, x] = a[y, x]
        cuda.syncthreads()
        o[y, x] = t[x, y]
    a, o = F(1024).reshape(32, 32), np.zeros((32, 32), 'f4')
    st = go(k, (f2d, f2d), 1, (32, 32), a, o)
    assert (o == a.T).all()
    assert st.mem['shared', 'ld'][2] == 32 * st.mem['shared', 'ld'][0] and st.mem['shared', 'st'][2] == 32


def test_block_reduction_equals_numpy():
    def k(x, o):
        sm = cuda.shared.array(128, float32)
        t = cuda.threadIdx.x
        s = float32(0)
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)): s += x[i]
        sm[t] = s
        cuda.syncthreads()
        h = 64
        while h > 0:
            if t < h: sm[t] += sm[t + h]
            cuda.syncthreads()
            h //= 2
        if t == 0: o[cuda.blockIdx.x] = sm[0]
    x, o = F(10000), np.zeros(5, 'f4')
    go(k, (f1, f1), 5, 128, x, o, racecheck=True)
    assert abs(o.sum() - x.sum(dtype='f8')) < 1e-2


def test_dynamic_shared_memory_is_allocated():
    def k(x, o):
        sm = cuda.shared.array(0, float32)
        t = cuda.threadIdx.x
        sm[t] = x[t]
        cuda.syncthreads()
        o[t] = sm[cuda.blockDim.x - 1 - t]
    x, o = F(100), np.zeros(100, 'f4')
    go(k, (f1, f1), 1, 100, x, o, shared=400, racecheck=True)
    assert (o == x[::-1]).all()
    with pytest.raises(P.MemoryFault, match='shared'): go(k, (f1, f1), 1, 100, x, o, shared=396)


def test_missing_barrier_is_a_race():
    def k(x, o):
        sm = cuda.shared.array(64, float32)
        t = cuda.threadIdx.x
        sm[t] = x[t]
        o[t] = sm[63 - t]
    x, o = F(64), np.zeros(64, 'f4')
    with pytest.raises(P.Race, match='read by thread'): go(k, (f1, f1), 1, 64, x, o, racecheck=True)


def test_race_in_global_memory_is_found():
    def k(x, o):
        o[0] = x[cuda.grid(1)]
    with pytest.raises(P.Race): go(k, (f1, f1), 2, 64, F(128), np.zeros(1, 'f4'), racecheck=True)


def test_barriers_that_count_and_vote_return_the_result():
    def k(x, o):
        t = cuda.threadIdx.x
        v = x[t + cuda.blockIdx.x * cuda.blockDim.x]
        c, a, r = cuda.syncthreads_count(v), cuda.syncthreads_and(v), cuda.syncthreads_or(v)
        if t == 0:
            o[cuda.blockIdx.x, 0] = c; o[cuda.blockIdx.x, 1] = a; o[cuda.blockIdx.x, 2] = r
    x, o = np.r_[np.ones(96, 'i4'), np.zeros(96, 'i4'), np.arange(96, dtype='i4') % 3].astype('i4'), np.zeros((3, 3), 'i4')
    Kernel.from_numba(k, args=(x, o)).launch(3, 96, x, o)
    assert o[:, 0].tolist() == [96, 0, 64] and (o[:, 1:] != 0).tolist() == [[True, True], [False, False], [False, True]]


def test_barrier_in_a_divergent_branch_is_a_deadlock():
    def k(x):
        if cuda.threadIdx.x < 16: cuda.syncthreads()
        while cuda.threadIdx.x >= 16 and x[0] == 0: cuda.syncwarp(0xffffffff)
        x[1] = 1
    with pytest.raises(P.Deadlock): go(k, (i1,), 1, 32, np.zeros(2, 'i4'))


# ------------------------------------------------------------------ warps
def test_shuffles_move_values_between_lanes():
    def k(x, o):
        i = cuda.grid(1)
        v = x[i]
        o[i, 0] = cuda.shfl_sync(0xffffffff, v, 5)
        o[i, 1] = cuda.shfl_up_sync(0xffffffff, v, 3)
        o[i, 2] = cuda.shfl_down_sync(0xffffffff, v, 7)
        o[i, 3] = cuda.shfl_xor_sync(0xffffffff, v, 9)
    x, o = F(64), np.zeros((64, 4), 'f4')
    st = go(k, (f1, f2d), 1, 64, x, o)
    l, b = np.arange(64) % 32, np.arange(64) // 32 * 32
    assert (o == np.stack([x[b + 5], x[b + np.where(l >= 3, l - 3, l)], x[b + np.where(l + 7 < 32, l + 7, l)], x[b + (l ^ 9)]], 1)).all()
    assert st.undefined_shfl == 0


def test_warp_reduction_and_votes_return_the_result():
    def k(x, o, m):
        i = cuda.grid(1)
        v = x[i]
        for d in (16, 8, 4, 2, 1): v += cuda.shfl_down_sync(0xffffffff, v, d)
        b = cuda.ballot_sync(0xffffffff, x[i] > 0)
        if cuda.laneid == 0: o[i // 32] = v
        m[i, 0] = b; m[i, 1] = cuda.any_sync(0xffffffff, x[i] > 3.9); m[i, 2] = cuda.all_sync(0xffffffff, x[i] > -3.9)
    n = 32 * 40
    x, o, m = F(n), np.zeros(40, 'f4'), np.zeros((n, 3), 'u4')
    Kernel.from_numba(k, args=(x, o, m)).launch(10, 128, x, o, m)
    X = x.reshape(40, 32)
    v = X.copy()
    for d in (16, 8, 4, 2, 1): v = v[:, :d] + v[:, d:2 * d]
    assert (o == v[:, 0]).all()
    want = np.stack([((X > 0) * (1 << np.arange(32, dtype='u8'))).sum(1), (X > 3.9).any(1), (X > -3.9).all(1)], 1)
    assert (m.reshape(40, 32, 3)[:, 0] == want).all() and (m.reshape(40, 32, 3) == want[:, None]).all()


def test_shuffle_after_divergence_reaches_all_lanes():
    def k(x, o):
        i = cuda.grid(1)
        v, c = x[i], 0
        while c < i % 7:                                  # lanes leave the loop at different times
            v += float32(1)
            c += 1
        o[i] = cuda.shfl_xor_sync(0xffffffff, v, 1)
    x, o = F(64), np.zeros(64, 'f4')
    go(k, (f1, f1), 1, 64, x, o)
    v = x.copy()
    for c in range(6): v = np.where(np.arange(64) % 7 > c, v + np.float32(1), v)
    assert (o == v[np.arange(64) ^ 1]).all()


def test_match_and_activemask_return_the_lanes():
    def k(x, o):
        i = cuda.grid(1)
        o[i, 0] = cuda.match_any_sync(0xffffffff, x[i])
        if i % 2: o[i, 1] = cuda.activemask()
    x, o = (np.arange(32) % 5).astype('i4'), np.zeros((32, 2), 'u4')
    Kernel.from_numba(k, args=(x, o)).launch(1, 32, x, o)
    for i in range(32): assert o[i, 0] == sum(1 << j for j in range(32) if j % 5 == i % 5)
    assert (o[1::2, 1] == 0xAAAAAAAA).all()


# ------------------------------------------------------------------ atomics
def test_atomics_equal_numpy():
    def k(x, h, f, d, mx, mn, cnt):
        i = cuda.grid(1)
        if i < x.size:
            cuda.atomic.add(h, x[i] % 10, 1)
            cuda.atomic.add(f, 0, float32(0.5)); cuda.atomic.add(d, 0, 0.25)
            cuda.atomic.max(mx, 0, x[i]); cuda.atomic.min(mn, 0, x[i])
            old = cuda.atomic.add(cnt, 0, 1)
            cnt[1 + old] = i
    n = 700
    x = rng.integers(0, 10 ** 6, n, dtype='i4')
    h, f, d, mx, mn, cnt = np.zeros(10, 'i4'), np.zeros(1, 'f4'), np.zeros(1), np.zeros(1, 'i4'), np.full(1, 10 ** 9, 'i4'), np.zeros(n + 1, 'i4')
    go(k, (i1, i1, f1, d1, i1, i1, i1), 6, 128, x, h, f, d, mx, mn, cnt)
    assert (h == np.bincount(x % 10, minlength=10)).all() and f[0] == n / 2 and d[0] == n / 4
    assert mx[0] == x.max() and mn[0] == x.min() and cnt[0] == n and sorted(cnt[1:]) == list(range(n))


def test_maximum_by_compare_and_swap_equals_numpy():
    def k(x, o, c):
        sm = cuda.shared.array(1, float32)
        if cuda.threadIdx.x == 0: sm[0] = float32(-1e30)
        cuda.syncthreads()
        cuda.atomic.max(sm, 0, x[cuda.grid(1)])
        cuda.syncthreads()
        if cuda.threadIdx.x == 0: cuda.atomic.max(o, 0, sm[0])
        cuda.atomic.cas(c, 0, 0, cuda.grid(1) + 1)
    x, o, c = F(512), np.full(1, -1e30, 'f4'), np.zeros(1, 'i4')
    go(k, (f1, f1, i1), 4, 128, x, o, c, racecheck=True)
    assert o[0] == x.max() and c[0] == 1


# ------------------------------------------------------------------ divergence, local memory, calls
def test_divergent_loops_equal_python():
    def k(n, o):
        i = cuda.grid(1)
        if i < n.size:
            v, c = n[i], 0
            while v != 1:
                if v % 2: v = 3 * v + 1
                else: v //= 2
                c += 1
                if c > 500: break
            o[i] = c
    n, o = np.arange(1, 300, dtype='i8'), np.zeros(299, 'i8')
    st = go(k, (l1, l1), 3, 100, n, o)
    def ref(v):
        c = 0
        while v != 1: v, c = (3 * v + 1 if v % 2 else v // 2), c + 1
        return c
    assert o.tolist() == [ref(int(v)) for v in n] and st.simt_efficiency < 0.7


def test_uniform_value_replaced_in_some_lanes_differs_between_lanes():
    def k(x, o):
        i = cuda.grid(1)
        v, w = float32(7), 5
        if x[i] > 0:
            v = x[i] * x[i + 64]
            w = i
            if v > 3: w += 100
        o[i] = v
        o[i + 64] = w
    x, o = F(128), np.zeros(128, 'f4')
    go(k, (f1, f1), 1, 64, x, o)
    i, p = np.arange(64), x[:64] > 0
    v = np.where(p, x[:64] * x[64:], np.float32(7))
    assert (o[:64] == v).all() and (o[64:] == np.where(p, i + 100 * (v > 3), 5)).all()


def test_local_array_takes_a_computed_index():
    def k(x, o):
        a = cuda.local.array(8, float32)
        i = cuda.grid(1)
        for j in range(8): a[j] = x[i] * float32(j)
        s = float32(0)
        for j in range(5): s += a[(i * j) % 8]
        o[i] = s
    x, o = F(256), np.zeros(256, 'f4')
    st = go(k, (f1, f1), 2, 128, x, o)
    i, s = np.arange(256), np.zeros(256, 'f4')
    for j in range(5): s = s + x * ((i * j) % 8).astype('f4')
    assert (o == s).all() and st.mem['local', 'st'][1] > 0


def test_constant_memory_is_read():
    table = np.array([3, 1, 4, 1, 5, 9, 2, 6], 'i4')
    def k(o):
        t = cuda.const.array_like(table)
        i = cuda.grid(1)
        o[i] = t[i % 8] * i
    o = np.zeros(64, 'i4')
    go(k, (i1,), 1, 64, o)
    assert (o == table[np.arange(64) % 8] * np.arange(64)).all()


def test_early_exit_before_barrier_counts_as_arrival():
    def k(x, o):
        sm = cuda.shared.array(64, float32)
        t = cuda.threadIdx.x
        if t >= 40: return
        sm[t] = x[t]
        cuda.syncthreads()
        o[t] = sm[39 - t]
    x, o = F(64), np.zeros(64, 'f4')
    st = go(k, (f1, f1), 1, 64, x, o)
    assert (o[:40] == x[39::-1]).all() and st.exited_at_barrier


# ------------------------------------------------------------------ float kernels
def ulps(a, ref):
    s = np.spacing(np.abs(ref).astype('f4')).astype('f8')
    return (np.abs(a.astype('f8') - ref) / s).max()


def test_libdevice_in_float32_equals_numpy():
    def k(x, o):
        i = cuda.grid(1)
        if i < x.size:
            v = x[i]; p = abs(v) + float32(0.1)
            o[i, 0] = math.exp(v); o[i, 1] = math.log(p); o[i, 2] = math.sin(v); o[i, 3] = math.tanh(v)
            o[i, 4] = math.sqrt(p); o[i, 5] = float32(1) / p; o[i, 6] = math.erf(v); o[i, 7] = math.pow(p, v); o[i, 8] = math.log1p(p)
    x = np.r_[F(2000, -20, 20), F(200, -1e5, 1e5), np.float32([0, 1, -1, 1e-30])].astype('f4')
    o = np.zeros((x.size, 9), 'f4')
    with np.errstate(all='ignore'):
        go(k, (f1, f2d), (x.size + 127) // 128, 128, x, o)
        X = x.astype('f8'); p = (abs(x) + np.float32(0.1)).astype('f8')
        refs = [np.exp(X), np.log(p), np.sin(X), np.tanh(X), np.sqrt(p), 1 / p, np.vectorize(math.erf)(X), np.power(p, X), np.log1p(p)]
        for j, (r, lim) in enumerate(zip(refs, (2, 1, 2, 2, .5001, .5001, 2, 4, 2))):
            r32, got = r.astype('f4'), o[:, j]
            fin = np.isfinite(r32) & (abs(r32) > 1e-37)
            assert ulps(got[fin], r[fin]) <= lim, j
            assert (np.isinf(got) == np.isinf(r32)).all()


def test_libdevice_in_float64_equals_numpy():
    def k(x, o):
        i = cuda.grid(1)
        if i < x.size: o[i, 0] = math.exp(x[i]); o[i, 1] = math.log(abs(x[i])); o[i, 2] = math.sin(x[i]); o[i, 3] = x[i] / 3.7
    x = rng.uniform(-30, 30, 500)
    o = np.zeros((500, 4))
    Kernel.from_numba(k, args=(x, o)).launch(4, 128, x, o)
    for j, r in enumerate((np.exp(x), np.log(abs(x)), np.sin(x), x / 3.7)): assert np.allclose(o[:, j], r, rtol=4e-16, atol=2e-16)


@pytest.mark.parametrize('fastmath', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_softmax_of_rows_equals_numpy(fastmath):
    @cuda.jit(fastmath=fastmath)
    def k(x, o):
        sm = cuda.shared.array(4, float32)
        t, row, n = cuda.threadIdx.x, cuda.blockIdx.x, x.shape[1]
        m = float32(-np.inf)
        for j in range(t, n, 128): m = max(m, x[row, j])
        for d in (16, 8, 4, 2, 1): m = max(m, cuda.shfl_xor_sync(0xffffffff, m, d))
        if t % 32 == 0: sm[t // 32] = m
        cuda.syncthreads()
        m = max(max(sm[0], sm[1]), max(sm[2], sm[3]))
        cuda.syncthreads()
        s = float32(0)
        for j in range(t, n, 128): s += math.exp(x[row, j] - m)
        for d in (16, 8, 4, 2, 1): s += cuda.shfl_xor_sync(0xffffffff, s, d)
        if t % 32 == 0: sm[t // 32] = s
        cuda.syncthreads()
        s = sm[0] + sm[1] + sm[2] + sm[3]
        for j in range(t, n, 128): o[row, j] = math.exp(x[row, j] - m) / s
    x = F(20 * 333).reshape(20, 333)
    o = np.zeros_like(x)
    st = go(k, (f2d, f2d), 20, 128, x, o, racecheck=True, jitter=1 if fastmath else None)
    e = np.exp(x.astype('f8') - x.max(1, keepdims=True))
    assert np.allclose(o, e / e.sum(1, keepdims=True), rtol=2e-6) and st.count('f64') == 0
    assert st.count(r'ex2\.approx') > 0


def test_comparisons_with_nan_equal_numpy():
    def k(a, b, o):
        i = cuda.grid(1)
        if i < a.size:
            x, y = a[i], b[i]
            o[i] = (x < y) | (x <= y) << 1 | (x > y) << 2 | (x >= y) << 3 | (x == y) << 4 | (x != y) << 5 | (not (x < y)) << 6
    v = np.float32([0, -0.0, 1, -1, np.inf, -np.inf, np.nan])
    a, b = (z.ravel().copy() for z in np.meshgrid(v, v))
    o = np.zeros(49, 'i4')
    go(k, (f1, f1, i1), 1, 64, a, b, o)
    ref = (a < b) * 1 | (a <= b) * 2 | (a > b) * 4 | (a >= b) * 8 | (a == b) * 16 | (a != b) * 32 | (~(a < b)) * 64
    assert (o == ref).all()


def test_conversions_between_float_and_integer_equal_numpy():
    def k(x, o, p):
        i = cuda.grid(1)
        if i < x.size:
            o[i] = int32(x[i]); p[i] = float32(int64(x[i]) * 16777217)
    x, o = F(300, -1e6, 1e6), np.zeros(300, 'i4')
    p = np.zeros(300, 'f4')
    go(k, (f1, i1, f1), 3, 128, x, o, p)
    assert (o == x.astype('i4')).all() and (p == (x.astype('i8') * 16777217).astype('f4')).all()


def test_half_precision_equals_numpy():
    def k(x, y, o):
        i = cuda.grid(1)
        if i < x.size: o[i] = cuda.fp16.hfma(x[i], y[i], x[i]) + x[i] * y[i]
    h = types.float16[::1]
    x, y = F(256).astype('f2'), F(256).astype('f2')
    o = np.zeros(256, 'f2')
    go(k, (h, h, h), 2, 128, x, y, o, lto=True)
    f = (x.astype('f8') * y + x).astype('f2')
    # numba contracts nothing here, or fuses the last mul+add: accept either rounding
    assert all(a in (b, c) for a, b, c in zip(o, f + x * y, (x.astype('f8') * y + f).astype('f2')))


# ------------------------------------------------------------------ faults
def test_access_out_of_bounds_or_misaligned_raises():
    def k(x, o, n):
        i = cuda.grid(1)
        if i < n: o[i] = x[i]
    K = Kernel.from_numba(k, (f1, f1, int64))
    x, o = F(100), np.zeros(100, 'f4')
    K.launch(1, 128, x, o, 100)
    with pytest.raises(P.MemoryFault, match=r'out-of-bounds load.*offset 400 of 400 bytes.*thread \(100,0,0\)'): K.launch(1, 128, x, o, 101)
    ro = x.copy(); ro.flags.writeable = False
    with pytest.raises(P.MemoryFault, match='read-only'): K.launch(1, 128, x, ro, 100)
    raw = np.zeros(64, 'u1')
    c = Kernel.from_cuda_c('extern "C" __global__ void k(char* p){ *(int*)(p+2) = 1; }', 'k')
    with pytest.raises(P.MemoryFault, match='misaligned'): c.launch(1, 1, raw)


def test_endless_loop_reaches_the_limit_of_steps():
    def k(x):
        while x[0] == 0: cuda.threadfence()
    with pytest.raises(P.PTXError, match='step limit'): go(k, (i1,), 1, 32, np.zeros(1, 'i4'), max_steps=10000)


# ------------------------------------------------------------------ CUDA C through NVRTC
def test_vector_loads_of_cuda_c_equal_numpy():
    src = '''
    template <typename T> __global__ void axpy(const float4* __restrict__ x, float4* y, T a, int n) {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) { float4 v = x[i], w = y[i]; w.x += a * v.x; w.y += a * v.y; w.z += a * v.z; w.w += a * v.w; y[i] = w; }
    }'''
    K = Kernel.from_cuda_c(src, 'axpy<float>')
    x, y = F(400), F(400)
    ref = (x.astype('f8') * np.float32(1.5) + y).astype('f4')
    st = K.launch(1, 128, x, y, 1.5, 100)
    assert (y == ref).all() and st.count(r'v4\.f32|v4\.b32') == 300 and st.mem['global', 'st'][0] == 4


def test_intrinsics_of_cuda_c_equal_python():
    src = '''
    extern "C" __global__ void k(const unsigned* a, const unsigned* b, const unsigned* c, unsigned* o, int n) {
        int i = blockIdx.x * blockDim.x + threadIdx.x; if (i >= n) return;
        unsigned x = a[i], y = b[i], z = c[i]; unsigned* p = o + i * 16;
        p[0] = __byte_perm(x, y, z & 0x7777); p[1] = __umulhi(x, y); p[2] = __mulhi((int)x, (int)y); p[3] = __funnelshift_l(x, y, z);
        p[4] = __funnelshift_rc(x, y, z & 63); p[5] = __sad((int)x, (int)y, z); p[6] = (unsigned)(((unsigned long long)x * y + z) >> 32);
        p[7] = (x ^ y) & ~z | (x & z); p[8] = (int)x >> (z & 31); p[9] = (x >> (z & 15)) & 0x3ff; p[10] = x % (y | 1);
        p[11] = (int)x / (int)(y | 1); p[12] = __umul64hi((unsigned long long)x << 32 | y, (unsigned long long)z << 32 | x);
        p[13] = __float_as_uint(__fmaf_rz(__uint_as_float(x & 0xbfffffff), __uint_as_float(y & 0xbfffffff), __uint_as_float(z & 0xbfffffff)));
        p[14] = __dp4a((int)x, (int)y, (int)z); p[15] = __float_as_uint(__fadd_rd(__uint_as_float(x & 0xbfffffff), __uint_as_float(y & 0xbfffffff)));
    }'''
    K = Kernel.from_cuda_c(src, 'k')
    n = 500
    a, b, c = (rng.integers(0, 2 ** 32, n, dtype='u4') for _ in range(3))
    o = np.zeros((n, 16), 'u4')
    K.launch(4, 128, a, b, c, o, n)
    M = 0xFFFFFFFF
    sg = lambda v: v - (1 << 32) if v >> 31 else v
    fl = lambda v: Fraction(struct.unpack('f', struct.pack('I', v & 0xbfffffff))[0])

    def rnd(q, down):
        v = np.float32(float(q)) if q else np.float32(0)
        if Fraction(float(v)) == q: return v
        if down: return v if Fraction(float(v)) < q else np.nextafter(v, np.float32(-np.inf))
        return v if abs(Fraction(float(v))) < abs(q) else np.nextafter(v, np.float32(0))
    bits = lambda v: int(np.float32(v).view('u4'))
    for x, y, z, r in zip(a.tolist(), b.tolist(), c.tolist(), o.tolist()):
        by = (x | y << 32).to_bytes(8, 'little')
        q = lambda p, d: int(abs(p) // abs(d)) * (1 if (p < 0) == (d < 0) else -1)
        s4 = lambda v: [int.from_bytes(bytes([t]), 'little', signed=True) for t in v.to_bytes(4, 'little')]
        want = [int.from_bytes(bytes(by[(z >> 4 * j) & 7] for j in range(4)), 'little'), x * y >> 32, (sg(x) * sg(y) >> 32) & M,
                ((y << 32 | x) << (z & 31) >> 32) & M, ((y << 32 | x) >> min(z & 63, 32)) & M, (z + abs(sg(x) - sg(y))) & M,
                (x * y + z) >> 32, ((x ^ y) & ~z | (x & z)) & M, (sg(x) >> (z & 31)) & M, (x >> (z & 15)) & 0x3ff, x % (y | 1),
                q(sg(x), sg(y | 1)) & M, (((x << 32 | y) * (z << 32 | x)) >> 64) & M, bits(rnd(fl(x) * fl(y) + fl(z), False)),
                (sg(z) + sum(p * t for p, t in zip(s4(x), s4(y)))) & M, bits(rnd(fl(x) + fl(y), True))]
        assert r == want


def test_functions_of_cuda_c_are_called():
    src = '''
    struct S { float a; int b[3]; };
    __device__ __noinline__ float sq(float x) { return x * x; }
    __device__ __noinline__ S mk(float x, int n) { S s; s.a = sq(x) + n; s.b[0] = n; s.b[1] = 2 * n; s.b[2] = 3; return s; }
    extern "C" __global__ void k(const float* x, float* o) {
        int i = threadIdx.x; S s = (i & 1) ? mk(x[i], i) : mk(sq(x[i]), 2); o[i] = s.a + s.b[0] + s.b[1] + s.b[2];
        __shared__ float t[64]; t[i] = o[i]; __syncthreads(); o[i] += t[63 - i] * 0.0f;
    }'''
    K = Kernel.from_cuda_c(src, 'k')
    x, o = F(64), np.zeros(64, 'f4')
    st = K.launch(1, 64, x, o)
    i = np.arange(64)
    X = x.astype('f8')
    ref = np.where(i & 1, X * X + 3 * i, (X * X) ** 2 + 2 + 4 + 0 + 0) + np.where(i & 1, 3, 3) + np.where(i & 1, i * 0 + i * 0 + 0, 0)
    ref = np.where(i & 1, X * X + i + i + 2 * i + 3, X ** 4 + 2 + 2 + 4 + 3)
    assert np.allclose(o, ref, rtol=1e-5) and st.thread_ins.get('call.uni', 0) > 0


def test_machine_code_is_counted():
    def clean(x, o):
        i = cuda.grid(1)
        if i < o.size: o[i] = x[i] * float32(0.1)
    def dirty(x, o):
        i = cuda.grid(1)
        if i < o.size: o[i] = x[i] * 0.1
    a, b = (Kernel.from_numba(k, (f1, f1)).sass() for k in (clean, dirty))
    is64 = lambda s: sum(v for k, v in s['opcodes'].items() if k in ('DMUL', 'DADD', 'DFMA', 'F2F.64'))
    assert is64(a) == 0 and is64(b) >= 3 and a['instructions'] < b['instructions'] and a['registers'] <= 16 and a['spill_bytes'] == 0


def test_wide_loads_through_an_intrinsic_are_counted():
    from numba.cuda.extending import intrinsic
    from llvmlite import ir
    v4 = ir.VectorType(ir.FloatType(), 4)
    i32 = ir.IntType(32)

    def vec_ptr(context, builder, aty, arr, i):
        return builder.bitcast(builder.gep(context.make_array(aty)(context, builder, arr).data, [i]), v4.as_pointer())

    @intrinsic
    def load4(typingctx, arr, i):
        def codegen(context, builder, sig, args):
            v = builder.load(vec_ptr(context, builder, sig.args[0], *args), align=16)
            return context.make_tuple(builder, sig.return_type, [builder.extract_element(v, i32(k)) for k in range(4)])
        return types.UniTuple(float32, 4)(arr, i), codegen

    @intrinsic
    def store4(typingctx, arr, i, t):
        def codegen(context, builder, sig, args):
            v = ir.Constant(v4, ir.Undefined)
            for k in range(4): v = builder.insert_element(v, builder.extract_value(args[2], k), i32(k))
            builder.store(v, vec_ptr(context, builder, sig.args[0], *args[:2]), align=16)
            return context.get_dummy_value()
        return types.void(arr, i, t), codegen

    def k(x, o):
        i = cuda.grid(1) * 4
        if i < o.size:
            a, b, c, d = load4(x, i)
            two = float32(2)
            store4(o, i, (a * two, b * two, c * two, d * two))
    K = Kernel.from_numba(k, (f1, f1), lto=LTO)
    x, o = F(4096), np.zeros(4096, 'f4')
    st = K.launch(8, 128, x, o)
    assert (o == 2 * x).all() and st.count(r'ld\.global\.v4') == 1024 and st.mem['global', 'ld'][:3] == [32, 16384, 512]
    with pytest.raises(P.MemoryFault, match='misaligned 16-byte'): K.launch(8, 128, F(4097)[1:], o)


# ------------------------------------------------------------------ single PTX instructions against Python integers and fractions
def ptx_kernel(snippets, target='sm_80'):
    """each snippet sees %a %b %c (b32), %A %B %C (b64), %f %g %h (f32), %d %e (f64) and leaves its result in %R (b64)"""
    body = '\n'.join(f'{{ .reg .b32 %t<9>; .reg .b64 %T<9>; .reg .b16 %s<9>; .reg .b8 %y<3>; .reg .f32 %x<9>; .reg .f64 %X<5>; .reg .pred %p<9>;\n'
                     f'mov.b64 %R, 0;\n{s}\nst.global.u64 [%rd9+{8 * i}], %R; }}' for i, s in enumerate(snippets))
    return Kernel.from_ptx(f"""
.version 8.0
.target {target}
.address_size 64
.visible .entry k(.param .u64 in, .param .u64 out)
{{
    .reg .b32 %r<9>; .reg .b64 %rd<12>; .reg .b32 %a, %b, %c; .reg .b64 %A, %B, %C, %R; .reg .f32 %f, %g, %h; .reg .f64 %d, %e;
    mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mad.lo.s32 %r1, %r1, %r2, %r3;
    ld.param.u64 %rd1, [in]; mad.wide.u32 %rd8, %r1, 64, %rd1;
    ld.global.v4.b32 {{%a, %b, %c, %r4}}, [%rd8]; ld.global.v2.b64 {{%A, %B}}, [%rd8+16]; ld.global.b64 %C, [%rd8+32];
    mov.b32 %f, %a; mov.b32 %g, %b; mov.b32 %h, %c; mov.b64 %d, %A; mov.b64 %e, %B;
    ld.param.u64 %rd2, [out]; mad.wide.u32 %rd9, %r1, {8 * len(snippets)}, %rd2;
{body}
    ret;
}}""")


def sg(v, n): return (v & ((1 << n) - 1)) - ((v >> (n - 1) & 1) << n)


def tz(p, q): return (abs(p) // abs(q)) * (1 if (p < 0) == (q < 0) else -1)


def clamp(v, lo, hi): return max(lo, min(hi, v))


OPS = [                                                   # (PTX, result as a function of 32-bit a b c and 64-bit A B C)
    ('mul.hi.s64 %R, %A, %B;', lambda a, b, c, A, B, C: sg(A, 64) * sg(B, 64) >> 64),
    ('mul.hi.u64 %R, %A, %B;', lambda a, b, c, A, B, C: A * B >> 64),
    ('mul.lo.s64 %R, %A, %B;', lambda a, b, c, A, B, C: A * B),
    ('mad.hi.s32 %t1, %a, %b, %c; cvt.u64.u32 %R, %t1;', lambda a, b, c, *_: ((sg(a, 32) * sg(b, 32) >> 32) + c) & 0xFFFFFFFF),
    ('mad.wide.s32 %R, %a, %b, %C;', lambda a, b, c, A, B, C: sg(a, 32) * sg(b, 32) + C),
    ('mul.wide.u16 %t1, %s1, %s2; cvt.u64.u32 %R, %t1;'.replace('mul', 'cvt.u16.u32 %s1, %a; cvt.u16.u32 %s2, %b; mul', 1), lambda a, b, *_: (a & 65535) * (b & 65535)),
    ('mul24.lo.s32 %t1, %a, %b; cvt.s64.s32 %R, %t1;', lambda a, b, *_: sg(sg(a, 24) * sg(b, 24), 32)),
    ('add.cc.u32 %t1, %a, %b; addc.cc.u32 %t2, %b, %c; addc.u32 %t3, 0, 0; add.u32 %t2, %t2, %t3; mov.b64 %R, {%t1, %t2};',
     lambda a, b, c, *_: (a + b & 0xFFFFFFFF) | ((b + c + (a + b >> 32) & 0xFFFFFFFF) + (b + c + (a + b >> 32) >> 32) & 0xFFFFFFFF) << 32),
    ('sub.cc.u32 %t1, %a, %b; subc.u32 %t2, %c, %a; mov.b64 %R, {%t1, %t2};', lambda a, b, c, *_: (a - b & 0xFFFFFFFF) | (c - a - (a < b) & 0xFFFFFFFF) << 32),
    ('mad.lo.cc.u32 %t1, %a, %b, %c; madc.hi.u32 %t2, %a, %b, 0; mov.b64 %R, {%t1, %t2};', lambda a, b, c, *_: a * b + c),
    ('add.cc.u64 %T1, %A, %B; addc.u64 %R, %C, 0;', lambda a, b, c, A, B, C: C + (A + B >> 64)),
    ('div.s32 %t1, %a, %b; cvt.s64.s32 %R, %t1;', lambda a, b, *_: sg(tz(sg(a, 32), sg(b, 32)), 32) if b else None),
    ('rem.s64 %R, %A, %C;', lambda a, b, c, A, B, C: sg(A, 64) - tz(sg(A, 64), sg(C, 64)) * sg(C, 64) if C else None),
    ('and.b32 %t1, %c, 63; shl.b64 %R, %A, %t1;', lambda a, b, c, A, *_: A << (c & 63)),
    ('and.b32 %t1, %c, 127; shr.s64 %R, %A, %t1;', lambda a, b, c, A, *_: sg(A, 64) >> (c & 127)),
    ('and.b32 %t1, %c, 63; shr.u32 %t1, %a, %t1; cvt.u64.u32 %R, %t1;', lambda a, b, c, *_: a >> (c & 63)),
    ('and.b32 %t1, %c, 63; shl.b32 %t1, %a, %t1; cvt.u64.u32 %R, %t1;', lambda a, b, c, *_: (a << (c & 63)) & 0xFFFFFFFF),
    ('shf.l.clamp.b32 %t1, %a, %b, %c; cvt.u64.u32 %R, %t1;', lambda a, b, c, *_: ((b << 32 | a) << min(c, 32) >> 32) & 0xFFFFFFFF),
    ('shf.r.wrap.b32 %t1, %a, %b, %c; cvt.u64.u32 %R, %t1;', lambda a, b, c, *_: ((b << 32 | a) >> (c & 31)) & 0xFFFFFFFF),
    ('lop3.b32 %t1, %a, %b, %c, 0x96; cvt.u64.u32 %R, %t1;', lambda a, b, c, *_: a ^ b ^ c),
    ('lop3.b32 %t1, %a, %b, %c, 0xca; cvt.u64.u32 %R, %t1;', lambda a, b, c, *_: (a & b | ~a & c) & 0xFFFFFFFF),
    ('prmt.b32 %t1, %a, %b, 0xB840; cvt.u64.u32 %R, %t1;',
     lambda a, b, *_: (a & 255) | (b & 255) << 8 | (255 if a >> 7 & 1 else 0) << 16 | (255 if a >> 31 else 0) << 24),
    ('popc.b64 %t1, %A; clz.b64 %t2, %B; mov.b64 %R, {%t1, %t2};', lambda a, b, c, A, B, C: bin(A).count('1') | (64 - B.bit_length()) << 32),
    ('brev.b64 %R, %A;', lambda a, b, c, A, *_: int(f'{A:064b}'[::-1], 2)),
    ('bfind.s32 %t1, %a; bfind.shiftamt.u64 %t2, %A; mov.b64 %R, {%t1, %t2};',
     lambda a, b, c, A, *_: ((a if a < 2 ** 31 else ~a & 0xFFFFFFFF).bit_length() - 1 & 0xFFFFFFFF) | ((64 - A.bit_length()) if A else 0xFFFFFFFF) << 32),
    ('bfe.s64 %R, %A, 5, 17;', lambda a, b, c, A, *_: sg(A >> 5, 17)),
    ('bfi.b64 %R, %A, %B, 13, 40;', lambda a, b, c, A, B, C: B & ~(((1 << 40) - 1) << 13) | (A & ((1 << 40) - 1)) << 13),
    ('sad.s32 %t1, %a, %b, %c; cvt.u64.u32 %R, %t1;', lambda a, b, c, *_: (abs(sg(a, 32) - sg(b, 32)) + c) & 0xFFFFFFFF),
    ('dp4a.u32.s32 %t1, %a, %b, %c; cvt.u64.u32 %R, %t1;', lambda a, b, c, *_: (c + sum((a >> 8 * i & 255) * sg(b >> 8 * i & 255, 8) for i in range(4))) & 0xFFFFFFFF),
    ('abs.s32 %t1, %a; neg.s32 %t2, %b; mov.b64 %R, {%t1, %t2};', lambda a, b, *_: (abs(sg(a, 32)) & 0xFFFFFFFF) | (-b & 0xFFFFFFFF) << 32),
    ('min.s32 %t1, %a, %b; max.u32 %t2, %a, %b; mov.b64 %R, {%t1, %t2};', lambda a, b, *_: (min(sg(a, 32), sg(b, 32)) & 0xFFFFFFFF) | max(a, b) << 32),
    ('cnot.b32 %t1, %a; not.b32 %t2, %b; mov.b64 %R, {%t1, %t2};', lambda a, b, *_: (a == 0) | (~b & 0xFFFFFFFF) << 32),
    ('add.sat.s32 %t1, %a, %b; cvt.s64.s32 %R, %t1;', lambda a, b, *_: clamp(sg(a, 32) + sg(b, 32), -2 ** 31, 2 ** 31 - 1)),
    ('setp.lt.s32 %p1|%p2, %a, %b; selp.u32 %t1, 1, 2, %p1; selp.u32 %t2, 4, 8, %p2; add.u32 %t1, %t1, %t2; cvt.u64.u32 %R, %t1;',
     lambda a, b, *_: 1 + 8 if sg(a, 32) < sg(b, 32) else 2 + 4),
    ('setp.gt.u32 %p3, %b, %c; setp.hi.and.u32 %p1|%p2, %a, %b, !%p3; selp.u32 %t1, 1, 2, %p1; selp.u32 %t2, 4, 8, %p2; add.u32 %t1, %t1, %t2; cvt.u64.u32 %R, %t1;',
     lambda a, b, c, *_: (1 if a > b and not b > c else 2) + (4 if a <= b and not b > c else 8)),
    ('set.ge.u32.s32 %t1, %a, %b; slct.u32.s32 %t2, %a, %b, %c; mov.b64 %R, {%t1, %t2};', lambda a, b, c, *_: (0xFFFFFFFF if sg(a, 32) >= sg(b, 32) else 0) | (a if c < 2 ** 31 else b) << 32),
    ('cvt.s64.s8 %R, %s1;'.replace('cvt', 'cvt.u16.u32 %s1, %a; cvt', 1), lambda a, *_: sg(a, 8)),
    ('cvt.sat.u8.s32 %t1, %a; cvt.sat.s16.s64 %t2, %A; mov.b64 %R, {%t1, %t2};', lambda a, b, c, A, *_: clamp(sg(a, 32), 0, 255) | (clamp(sg(A, 64), -32768, 32767) & 0xFFFFFFFF) << 32),
    ('cvt.u16.u32 %s1, %a; cvt.u32.u16 %t1, %s1; cvt.s32.s16 %t2, %s1; mov.b64 %R, {%t1, %t2};', lambda a, *_: (a & 65535) | (sg(a, 16) & 0xFFFFFFFF) << 32),
    ('mov.b64 {%t1, %t2}, %A; mov.b32 {%s1, %s2}, %a; mov.b32 %t3, {%s2, %s1}; xor.b32 %t1, %t1, %t3; mov.b64 %R, {%t2, %t1};',
     lambda a, b, c, A, *_: (A >> 32) | ((A & 0xFFFFFFFF) ^ (a >> 16 | (a & 65535) << 16)) << 32),
    ('ld.global.s8 %t1, [%rd8+1]; ld.global.u8 %t2, [%rd8+1]; mov.b64 %R, {%t1, %t2};', lambda a, *_: (sg(a >> 8, 8) & 0xFFFFFFFF) | (a >> 8 & 255) << 32),
    ('ld.global.s16 %R, [%rd8+2];', lambda a, *_: sg(a >> 16, 16)),
    ('.local .align 8 .b8 loc[16]; mov.u64 %T1, loc; st.local.u64 [loc], %A; st.local.u16 [%T1+2], %a; ld.local.u64 %R, [%T1];', lambda a, b, c, A, *_: A & ~(65535 << 16) | (a & 65535) << 16),
    ('mov.u32 %t1, 7; setp.gt.u32 %p1, %a, %b; @%p1 mov.u32 %t1, 9; cvt.u64.u32 %R, %t1;', lambda a, b, *_: 9 if a > b else 7),
    ('mov.u32 %t1, 7; setp.gt.u32 %p1, %a, %b; @!%p1 bra SKIP; add.u32 %t1, %t1, 4;\nSKIP: cvt.u64.u32 %R, %t1;', lambda a, b, *_: 11 if a > b else 7),
    ('.local .align 8 .b8 lod[16]; mov.u64 %T1, lod; cvta.local.u64 %T2, %T1; st.u64 [%T2+8], %B; ld.local.u64 %R, [lod+8];', lambda a, b, c, A, B, C: B),
]


@pytest.mark.parametrize('threads', [1, 256])
def test_integer_instructions_equal_exact_arithmetic(threads):
    K = ptx_kernel([s for s, _ in OPS])
    n = 256
    r = np.random.default_rng(7)
    data = r.integers(0, 2 ** 64, (n, 8), dtype='u8')
    words = data.view('u4')
    edge = np.array([0, 1, 2 ** 31, 2 ** 32 - 1, 2 ** 31 - 1, 33], 'u4')
    words[:100, :3] = r.choice(edge, (100, 3))
    data[:100, 2:5] = r.choice(np.array([0, 1, 2 ** 63, 2 ** 64 - 1, 2 ** 63 - 1, 2 ** 32], 'u8'), (100, 3))
    words[:, 2] = np.where(r.random(n) < .5, r.integers(0, 70, n), words[:, 2])
    out = np.zeros((n, len(OPS)), 'u8')
    K.launch(n // threads, threads, data, out, batch=64)
    for i in range(n):
        a, b, c, A, B, C = [int(v) for v in (*words[i, :3], *data[i, 2:5])]
        for j, (s, f) in enumerate(OPS):
            want = f(a, b, c, A, B, C)                    # None: division by zero, unspecified
            if want is not None: assert int(out[i, j]) == want & (2 ** 64 - 1), (s, hex(a), hex(b), hex(c), hex(A), hex(B), hex(C))


def exact(q, rnd, t):
    """Fraction -> correctly rounded float of type t, by neighbours"""
    ty = np.dtype(t).type
    v = ty(float(q))
    cand = sorted({float(x) for x in (v, np.nextafter(v, ty(np.inf)), np.nextafter(v, ty(-np.inf)))})
    lo = max(x for x in cand if Fraction(x) <= q); hi = min(x for x in cand if Fraction(x) >= q)
    if rnd == 'rm': return lo
    if rnd == 'rp': return hi
    if rnd == 'rz': return lo if q > 0 else hi
    if Fraction(lo) == q or q - Fraction(lo) < Fraction(hi) - q: return lo
    if q - Fraction(lo) > Fraction(hi) - q: return hi
    return lo if int(ty(lo).view('u%d' % np.dtype(t).itemsize)) % 2 == 0 else hi


def test_float_instructions_round_correctly():
    f = lambda x: Fraction(float(x))
    ops = [(f'{o}.{r}.f32 %x1, %f, %g; mov.b32 %t1, %x1; cvt.u64.u32 %R, %t1;', (lambda g, r: lambda f_, g_, h_, d, e: (exact(g(f(f_), f(g_)), r, 'f4'), 'f4'))(g, r))
           for o, g in (('add', lambda x, y: x + y), ('sub', lambda x, y: x - y), ('mul', lambda x, y: x * y)) for r in ('rn', 'rz', 'rm', 'rp')]
    ops += [(f'fma.{r}.f32 %x1, %f, %g, %h; mov.b32 %t1, %x1; cvt.u64.u32 %R, %t1;', (lambda r: lambda a, b, c, d, e: (exact(f(a) * f(b) + f(c), r, 'f4'), 'f4'))(r)) for r in ('rn', 'rz', 'rm', 'rp')]
    ops += [(f'add.{r}.f64 %X1, %d, %e; mov.b64 %R, %X1;', (lambda r: lambda a, b, c, d, e: (exact(f(d) + f(e), r, 'f8'), 'f8'))(r)) for r in ('rn', 'rz', 'rm', 'rp')]
    ops += [(f'fma.{r}.f64 %X1, %d, %e, %d; mov.b64 %R, %X1;', (lambda r: lambda a, b, c, d, e: (exact(f(d) * f(e) + f(d), r, 'f8'), 'f8'))(r)) for r in ('rn', 'rz', 'rm', 'rp')]
    ops += [(f'cvt.{r}.f32.f64 %x1, %d; mov.b32 %t1, %x1; cvt.u64.u32 %R, %t1;', (lambda r: lambda a, b, c, d, e: (exact(f(d), r, 'f4'), 'f4'))(r)) for r in ('rn', 'rz', 'rm', 'rp')]
    ops += [(f'cvt.{r}.f32.s64 %x1, %A; mov.b32 %t1, %x1; cvt.u64.u32 %R, %t1;', (lambda r: lambda a, b, c, d, e: (exact(Fraction(int(np.float64(d).view('i8'))), r, 'f4'), 'f4'))(r)) for r in ('rn', 'rz', 'rm', 'rp')]
    ops += [(f'cvt.rn.f16.f32 %s1, %f; cvt.u64.u16 %R, %s1;', lambda a, b, c, d, e: (exact(f(a), 'rn', 'f2'), 'f2')),
            ('div.rn.f32 %x1, %f, %g; mov.b32 %t1, %x1; cvt.u64.u32 %R, %t1;', lambda a, b, c, d, e: (exact(f(a) / f(b), 'rn', 'f4'), 'f4'))]
    for r, g in (('rni', lambda q: round(q)), ('rzi', lambda q: int(q)), ('rmi', math.floor), ('rpi', math.ceil)):
        ops += [(f'cvt.{r}.{t}.f32 %T1, %f; cvt.s64.{t} %R, %T1;', (lambda g, lo, hi: lambda a, b, c, d, e: (clamp(g(f(a)), lo, hi), 'i8'))(g, lo, hi))
                for t, lo, hi in (('s32', -2 ** 31, 2 ** 31 - 1), ('u32', 0, 2 ** 32 - 1), ('s8', -128, 127), ('u16', 0, 65535), ('s64', -2 ** 63, 2 ** 63 - 1))]
    K = ptx_kernel([s for s, _ in ops])
    n = 200
    r = np.random.default_rng(8)
    data = np.zeros((n, 8), 'u8')
    fl, db = data.view('f4'), data.view('f8')
    fl[:, :3] = np.ldexp(r.normal(0, 1, (n, 3)), r.integers(-30, 40, (n, 1)) + r.integers(-25, 26, (n, 3)))
    fl[:60, 0] = r.integers(-40, 41, 60) / 4                # exact halves for rounding
    fl[:40, 2] = -(fl[:40, 0] * fl[:40, 1])
    db[:, 2:4] = np.ldexp(r.normal(0, 1, (n, 2)), r.integers(-30, 30, (n, 2)))
    db[60:90, 2] = np.float64(r.normal(0, 1, 30).astype('f4')) + np.ldexp(1.0, -25) * r.choice([0, .5, 1], 30)
    out = np.zeros((n, len(ops)), 'u8')
    K.launch(4, 50, data, out)
    for i in range(n):
        for j, (s, g) in enumerate(ops):
            a, b, c, d, e = fl[i, 0], fl[i, 1], fl[i, 2], db[i, 2], db[i, 3]
            if 'f16' in s and not 1e-7 < abs(a) < 60000: continue
            v, t = g(a, b, c, d, e)
            want = v & (2 ** 64 - 1) if t == 'i8' else int(np.dtype(t).type(v).view('u%d' % np.dtype(t).itemsize))
            if t != 'i8' and v == 0: continue               # the sign of zero is not modelled by Fraction
            assert int(out[i, j]) == want, (s, a, b, c, d, e, v)


def test_float_instructions_handle_special_values():
    nan, inf = np.nan, np.inf
    ops = [('cvt.rzi.s32.f32 %t1, %f; cvt.rzi.u32.f32 %t2, %f; mov.b64 %R, {%t1, %t2};', {nan: 0, inf: 0x7FFFFFFF | 0xFFFFFFFF << 32, -inf: 0x80000000, 3e9: 0x7FFFFFFF | 3000000000 << 32}),
           ('cvt.rzi.s64.f32 %R, %f;', {nan: 1 << 63, inf: 2 ** 63 - 1, -inf: 1 << 63, 3e9: 3000000000}),
           ('setp.ne.f32 %p1, %f, %f; selp.b64 %R, 1, 0, %p1;', {nan: 0, inf: 0, -inf: 0, 3e9: 0}),
           ('setp.neu.f32 %p1, %f, %f; selp.b64 %R, 1, 0, %p1;', {nan: 1, inf: 0, -inf: 0, 3e9: 0}),
           ('setp.num.f32 %p1, %f, %f; setp.nan.or.f32 %p2, %f, 0f00000000, %p1; selp.b64 %R, 1, 0, %p2;', {nan: 1, inf: 1, -inf: 1, 3e9: 1}),
           ('min.f32 %x1, %f, 0f3F800000; mov.b32 %t1, %x1; cvt.u64.u32 %R, %t1;', {nan: 0x3F800000, inf: 0x3F800000, -inf: 0xFF800000, 3e9: 0x3F800000}),
           ('max.NaN.f32 %x1, %f, 0f3F800000; testp.notanumber.f32 %p1, %x1; selp.b64 %R, 1, 0, %p1;', {nan: 1, inf: 0, -inf: 0, 3e9: 0}),
           ('cvt.sat.f32.f32 %x1, %f; mov.b32 %t1, %x1; cvt.u64.u32 %R, %t1;', {nan: 0, inf: 0x3F800000, -inf: 0, 3e9: 0x3F800000}),
           ('copysign.f32 %x1, %f, 0f3F800000; mov.b32 %t1, %x1; cvt.u64.u32 %R, %t1;', {inf: 0x3F800000, -inf: 0xBF800000, 3e9: 0x3F800000}),
           ('mul.ftz.f32 %x1, %g, 0f3F800000; mov.b32 %t1, %x1; mul.f32 %x2, %g, 0f3F800000; mov.b32 %t2, %x2; mov.b64 %R, {%t1, %t2};', {inf: 0x80000000 | 0x80000005 << 32}),
           ('cvt.rn.bf16.f32 %s1, %f; cvt.u64.u16 %R, %s1;', {inf: 0x7F80, -inf: 0xFF80, 3e9: int(np.float32(3e9).view('u4')) + 0x7FFF >> 16}),
           ('cvt.rn.f16x2.f32 %t1, %f, %h; cvt.u64.u32 %R, %t1;', {inf: 0x7C003C00, -inf: 0xFC003C00, 3e9: 0x7C003C00})]
    keys = [nan, inf, -inf, 3e9]
    data = np.zeros((4, 8), 'u8')
    data.view('f4')[:, 0] = keys
    data.view('u4')[:, 1] = 0x80000005
    data.view('f4')[:, 2] = 1
    out = np.zeros((4, len(ops)), 'u8')
    ptx_kernel([s for s, _ in ops]).launch(1, 4, data, out)
    for i, k in enumerate(keys):
        for j, (s, want) in enumerate(ops):
            w = next((v for q, v in want.items() if q == k or (q != q and k != k)), None)
            if w is not None: assert int(out[i, j]) == w, (s, k, hex(int(out[i, j])), hex(w))


def test_reductions_in_segments_of_a_warp_return_the_result():
    src = '''extern "C" __global__ void k(const int* x, int* o) {
        int i = blockIdx.x * blockDim.x + threadIdx.x, v = x[i];
        o[8*i] = __shfl_sync(~0u, v, 3, 8); o[8*i+1] = __shfl_up_sync(~0u, v, 2, 16); o[8*i+2] = __shfl_down_sync(~0u, v, 3, 4); o[8*i+3] = __shfl_xor_sync(~0u, v, 12, 8);
        o[8*i+4] = __reduce_add_sync(~0u, v); o[8*i+5] = __reduce_min_sync(~0u, v); o[8*i+6] = __reduce_max_sync(0xffffu << (i & 16), v);
        o[8*i+7] = blockIdx.x * 1000 + gridDim.x; }'''
    K = Kernel.from_cuda_c(src, 'k')
    n = 64 * 50
    x = rng.integers(-1000, 1000, n, dtype='i4')
    o = np.zeros((n, 8), 'i4')
    K.launch(50, 64, x, o, batch=256)                     # 13 batches of CTAs
    l = np.arange(n) % 32
    b = np.arange(n) - l
    X = x.reshape(-1, 32)
    assert (o[:, 0] == x[b + l // 8 * 8 + 3]).all()
    assert (o[:, 1] == x[b + np.where(l % 16 >= 2, l - 2, l)]).all()
    assert (o[:, 2] == x[b + np.where(l % 4 + 3 < 4, l + 3, l)]).all()
    j = l ^ 12
    assert (o[:, 3] == x[b + np.where(j <= l // 8 * 8 + 7, j, l)]).all()
    assert (o[:, 4] == np.repeat(X.sum(1), 32)).all() and (o[:, 5] == np.repeat(X.min(1), 32)).all()
    assert (o[:, 6] == np.repeat(x.reshape(-1, 16).max(1), 16)).all()
    assert (o[:, 7] == np.arange(n) // 64 * 1000 + 50).all()


# ------------------------------------------------------------------ random programs: device (ptxrun) against host (g++)
TY = ['unsigned', 'int', 'unsigned long long', 'long long', 'unsigned short', 'short', 'unsigned char', 'signed char', 'float', 'double']


def expr(r, d):
    """random C expression (text, type index) over a[0..3] of mixed types; free of undefined behaviour"""
    if d == 0 or r.random() < 0.1:
        k = int(r.integers(0, 4))
        return [('a', 0), ('b', 2), ('c', 8), ('d', 9)][k] if r.random() < 0.8 else (f'{int(r.integers(-9, 99))}', 1)
    op = r.choice(['+', '-', '*', '/', '%', '&', '|', '^', '<<', '>>', '?', '<', 'cast', 'min', '~'])
    (x, tx), (y, ty) = expr(r, d - 1), expr(r, d - 1)
    U8 = 'unsigned long long'
    it = r.choice(TY[:8])
    if op == 'cast':
        t = int(r.integers(0, 10))
        if tx >= 8 and t < 8: return f'(({TY[t]})(int)clampf({x}))', t          # out-of-range float->int is undefined in C
        return f'(({TY[t]})({x}))', t
    if op == '?': return f'(({x}) < ({y}) ? (double)({x}) : (double)({y}))' if max(tx, ty) >= 8 else f'(({U8})({x}) < ({U8})({y}) ? ({U8})({x}) : ({U8})({y}))', 9 if max(tx, ty) >= 8 else 2
    if op == '<': return f'(int)(({TY[tx]})({x}) {r.choice(["<", "<=", ">", ">=", "==", "!="])} ({TY[tx]})({y}))' if tx >= 8 or ty < 8 else f'(int)(({x}) < ({y}))', 1
    if max(tx, ty) >= 8:
        if op in '+-*/': return f'(({x}) {op} ({y}))', 9 if 9 in (tx, ty) else 8
        return f'(({x}) - ({y}))', 9 if 9 in (tx, ty) else 8
    ut = U8 if max(tx, ty) >= 2 and (tx in (2, 3) or ty in (2, 3)) else 'unsigned'
    st, n = ('long long', 64) if ut == U8 else ('int', 32)
    ti = (2, 3) if ut == U8 else (0, 1)
    signed = r.random() < 0.5
    if op in '/%':
        if signed: return f'(({st})((({ut})({x})) >> 1) {"-" if r.random() < .5 else "+"} 0) {op} ({st})((({ut})({y}) >> 2) | 1)'.join('()'), ti[1]
        return f'((({ut})({x})) {op} ((({ut})({y})) | 1))', ti[0]
    if op in ('<<', '>>'):
        if signed and op == '>>': return f'((({st})({x})) >> (({y}) & {n - 1}))', ti[1]
        return f'((({ut})({x})) {op} (({y}) & {n - 1}))', ti[0]
    if op == '~': return f'(~({ut})({x}))', ti[0]
    if op == 'min': return f'((({st})({x})) < (({st})({y})) ? (({st})({x})) : (({st})({y})))', ti[1]
    e = f'(({ut})({x}) {op} ({ut})({y}))'
    return (f'(({st}){e})', ti[1]) if signed else (e, ti[0])


@pytest.mark.slow
def test_random_programs_equal_those_of_gcc(tmp_path):
    import ctypes, shutil, subprocess
    if not shutil.which('g++'): pytest.skip('no g++')
    r = np.random.default_rng(int(os.environ.get('PTXRUN_SEED', '1')))
    exprs = [expr(r, 4) for _ in range(60)]
    fn = ['DEV %s f%d(unsigned a, unsigned long long b, float c, double d) { return %s; }' % (TY[t], i, e) for i, (e, t) in enumerate(exprs)]
    body = '\n'.join(f'{{ double v = (double)f{i}(a, b, c, d); unsigned long long w = {"0" if t >= 8 else f"(unsigned long long)f{i}(a, b, c, d)"}; '
                     f'o[2*{i}] = {"bits(v)" if t >= 8 else "w"}; o[2*{i}+1] = bits(v); }}' for i, (_, t) in enumerate(exprs))
    common = 'DEV float clampf(double x) { return x > -1e6 && x < 1e6 ? (float)x : 0.0f; }\n' + '\n'.join(fn)
    dev = ('#define DEV static __device__ __noinline__\n' + common + '\nstatic __device__ unsigned long long bits(double v) { return v != v ? 7 : __double_as_longlong(v); }'
           'extern "C" __global__ void k(const unsigned* A, const unsigned long long* B, const float* C, const double* D, unsigned long long* O, int n) {'
           f'int i = blockIdx.x * blockDim.x + threadIdx.x; if (i >= n) return; unsigned a = A[i]; auto b = B[i]; auto c = C[i]; auto d = D[i]; auto o = O + {2 * len(exprs)}ull * i;' + body + '}')
    host = ('#include <cstring>\n#define DEV static __attribute__((noinline))\n' + common + '\nstatic unsigned long long bits(double v) { unsigned long long r; memcpy(&r, &v, 8); return v != v ? 7 : r; }'
            'extern "C" void k(const unsigned* A, const unsigned long long* B, const float* C, const double* D, unsigned long long* O, int n) {'
            f'for (int i = 0; i < n; i++) {{ unsigned a = A[i]; auto b = B[i]; auto c = C[i]; auto d = D[i]; auto o = O + {2 * len(exprs)}ull * i;' + body + '}}')
    (tmp_path / 'h.cpp').write_text(host)
    subprocess.run(['g++', '-O1', '-fwrapv', '-ffp-contract=off', '-w', '-shared', '-fPIC', '-o', str(tmp_path / 'h.so'), str(tmp_path / 'h.cpp')], check=True)
    n = 64
    a = np.r_[r.integers(0, 2 ** 32, n - 4, dtype='u4'), [0, 1, 2 ** 31, 2 ** 32 - 1]].astype('u4')
    b = np.r_[np.array([0, 2 ** 63, 2 ** 64 - 1], 'u8'), r.integers(0, 2 ** 64, n - 3, dtype='u8')]
    c, d = r.normal(0, 1e3, n).astype('f4'), r.normal(0, 1e9, n)
    want, got = np.zeros((n, len(exprs), 2), 'u8'), np.zeros((n, len(exprs), 2), 'u8')
    lib = ctypes.CDLL(str(tmp_path / 'h.so'))
    lib.k(*(ctypes.c_void_p(z.ctypes.data) for z in (a, b, c, d, want)), n)
    Kernel.from_cuda_c(dev, 'k', options=['-fmad=false']).launch(2, 32, a, b, c, d, got, n)
    bad = np.argwhere((want != got).any(2))
    assert len(bad) == 0, [(exprs[j], hex(want[i, j, 0]), hex(got[i, j, 0]), hex(a[i]), hex(b[i]), c[i], d[i]) for i, j in bad[:3]]


# ------------------------------------------------------------------ primitives against exact rationals
def test_fma_is_exact():
    for t, dt, lo, hi in (('f32', 'f4', -40, 40), ('f32', 'f4', -126, 20), ('f64', 'f8', -40, 40), ('f64', 'f8', -520, 400), ('f16', 'f2', -9, 6)):
        n = 400
        v = [np.ldexp(rng.uniform(1, 2, n) * rng.choice([-1, 1], n), rng.integers(lo, hi, n)).astype(dt) for _ in range(3)]
        v[2][:100] = (-(v[0][:100].astype('f8') * v[1][:100])).astype(dt)             # heavy cancellation
        with np.errstate(all='ignore'):
            got = P.fma(*v, t)
            for a, b, c, g in zip(*v, got):
                if not all(map(np.isfinite, (a, b, c))): continue
                q = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
                if not np.isfinite(g): assert abs(q) > float(np.finfo(dt).max); continue
                d = abs(Fraction(float(g)) - q)
                for s in (np.inf, -np.inf):
                    nb = np.nextafter(g, g.dtype.type(s))
                    if np.isfinite(nb): assert d <= abs(Fraction(float(nb)) - q)


def test_bit_fields_are_extracted_and_inserted():
    a = rng.integers(0, 2 ** 32, 300, dtype='u4'); b = rng.integers(0, 2 ** 32, 300, dtype='u4')
    pos, ln = rng.integers(0, 40, 300, dtype='u4'), rng.integers(0, 40, 300, dtype='u4')
    for x, y, p, l, e, s, ins in zip(a.tolist(), b.tolist(), pos.tolist(), ln.tolist(), P.bfe(a, pos, ln).tolist(),
                                     P.bfe(a.view('i4'), pos, ln).tolist(), P.bfi(a, b, pos, ln).tolist()):
        m = (1 << min(l, 32)) - 1
        assert e == (x >> p) & m
        assert ins == (y & ~(m << p) | (x & m) << p) & 0xFFFFFFFF
        msb = 31                                          # the PTX manual's own loop for bfe.s32
        sb = 0 if l == 0 else x >> min(p + l - 1, msb) & 1
        want = sum((x >> (p + i) & 1 if i < l and p + i <= msb else sb) << i for i in range(32))
        assert s & 0xFFFFFFFF == want


if __name__ == '__main__':
    sys.exit(pytest.main([__file__, '-q', *sys.argv[1:]]))
