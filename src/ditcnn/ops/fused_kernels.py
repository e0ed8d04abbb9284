"""Triton kernels of the fused form; `ditcnn.ops.fused` imports this file when it is asked for, and nothing else does.

Both make the products of two rows in registers, block by block, and hand them to the matrix units at once. Only builtins of
``triton.language`` are used: those run in the interpreter even where triton was imported before it was switched on.
"""

import torch
import triton
import triton.language as tl

INTERPRETED = triton.knobs.runtime.interpret  # fixed when the kernels are made
DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}


@triton.jit
def contract_products(
    u_ptr,  # [T, A]
    v_ptr,  # [T, B]
    w_ptr,  # [A, B, N]
    y_ptr,  # [T, N]
    T,
    A,
    B,
    N,
    TRIANGULAR: tl.constexpr,  # w[a, b] is zero for a > b: skip those blocks
    DOT: tl.constexpr,  # type in which products reach the matrix units
    PRECISION: tl.constexpr,  # of a float32 dot
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """y[t, n] = sum_ab u[t, a] v[t, b] w[a, b, n]; one program owns a tile of y."""
    BLOCK_K: tl.constexpr = BLOCK_A * BLOCK_B
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    t_in = t[:, None] < T
    n_in = n[None, :] < N
    sums = tl.full([BLOCK_T, BLOCK_N], 0.0, tl.float32)
    for b0 in range(0, B, BLOCK_B):
        b = b0 + tl.arange(0, BLOCK_B)
        v = tl.load(v_ptr + t[:, None] * B + b[None, :], mask=t_in & (b[None, :] < B), other=0.0).to(tl.float32)
        b_of_k = b0 + k % BLOCK_B
        end = tl.minimum(b0 + BLOCK_B, A) if TRIANGULAR else A
        for a0 in range(0, end, BLOCK_A):
            a = a0 + tl.arange(0, BLOCK_A)
            u = tl.load(u_ptr + t[:, None] * A + a[None, :], mask=t_in & (a[None, :] < A), other=0.0).to(tl.float32)
            products = tl.reshape(u[:, :, None] * v[:, None, :], [BLOCK_T, BLOCK_K]).to(DOT)
            a_of_k = a0 + k // BLOCK_B
            w_in = (a_of_k < A)[:, None] & (b_of_k < B)[:, None] & n_in
            w = tl.load(w_ptr + (a_of_k.to(tl.int64) * B + b_of_k)[:, None] * N + n[None, :], mask=w_in, other=0.0)
            sums = tl.dot(products, w, sums, input_precision=PRECISION)
    tl.store(y_ptr + t[:, None] * N + n[None, :], sums.to(y_ptr.dtype.element_ty), mask=t_in & n_in)


@triton.jit
def correlate_products(
    x_ptr,  # [T, C]
    g_ptr,  # [T, N]
    parts_ptr,  # [splits, N, C, C], float32
    T,
    C,
    N,
    SPAN,  # positions of one split
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """parts[s, n, i, j] = sum over the positions t of split s of g[t, n] x[t, i] x[t, j], in blocks that reach i <= j."""
    BLOCK_K: tl.constexpr = BLOCK_I * BLOCK_J
    blocks_j = (C + BLOCK_J - 1) // BLOCK_J
    i0 = tl.program_id(0) // blocks_j * BLOCK_I
    j0 = tl.program_id(0) % blocks_j * BLOCK_J
    if i0 >= j0 + BLOCK_J:
        return
    i = i0 + tl.arange(0, BLOCK_I)
    j = j0 + tl.arange(0, BLOCK_J)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(2).to(tl.int64)
    first = split * SPAN
    last = tl.minimum(first + SPAN, T)
    sums = tl.full([BLOCK_K, BLOCK_N], 0.0, tl.float32)
    for t0 in range(first, last, BLOCK_T):
        t = t0 + tl.arange(0, BLOCK_T)
        t_in = t < last
        x_i = tl.load(x_ptr + t[None, :] * C + i[:, None], mask=t_in[None, :] & (i[:, None] < C), other=0.0).to(tl.float32)
        x_j = tl.load(x_ptr + t[None, :] * C + j[:, None], mask=t_in[None, :] & (j[:, None] < C), other=0.0).to(tl.float32)
        g = tl.load(g_ptr + t[:, None] * N + n[None, :], mask=t_in[:, None] & (n[None, :] < N), other=0.0).to(DOT)
        products = tl.reshape(x_i[:, None, :] * x_j[None, :, :], [BLOCK_K, BLOCK_T]).to(DOT)
        sums = tl.dot(products, g, sums, input_precision=PRECISION)
    k = tl.arange(0, BLOCK_K)
    i_of_k = (i0 + k // BLOCK_J)[:, None]
    j_of_k = (j0 + k % BLOCK_J)[:, None]
    place = ((split * N + n[None, :]) * C + i_of_k) * C + j_of_k
    tl.store(parts_ptr + place, sums, mask=(i_of_k < C) & (j_of_k < C) & (n[None, :] < N))
