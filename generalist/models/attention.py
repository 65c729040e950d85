"""Exact softmax attention that never stores a score tensor above a size limit."""

import functools
import logging
import math
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

# Scores are float32; above this many bytes they are computed a block of queries at a time.
SCORE_LIMIT_BYTES = 256 * 2**20
# From so many queries on, cuDNN's flash attention is taken on CUDA, and one head at a time on CPU; scores of fewer are small.
MANY_QUERIES = 1024
# True where a program is compiled for GPUs that are not there: nothing can be tried then.
assume_flash = False


def attention(
    q, k, v, *, bias=None, scale: float | None = None, score_limit: int = SCORE_LIMIT_BYTES
):
    """Multi-head softmax(scale q k^T + bias) v.

    Args:
        q: (b, n, heads, d) queries.
        k: (b, m, heads, d) keys.
        v: (b, m, heads, d) values.
        bias: added to the scores, broadcastable to (b, heads, n, m): a causal mask, relative positions.
        scale: by default 1 / sqrt(d).
        score_limit: bytes of float32 scores that may exist at once on a device; under a mesh (`jax.set_mesh`) the batch counts as
            split over all of it. Above it the queries are processed in blocks (with no bias; text, which has one, is short) whose
            scores the backward pass recomputes, so that neither pass holds more than one block. The result is the same.

    Returns:
        (b, n, heads, d) in the dtype of `q`. Scores and softmax are float32.
    """
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    block = _queries_at_once(q, k, score_limit) if bias is None else q.shape[1]
    plain = functools.partial(_plain, bias=bias, scale=scale, block=block)
    queries, keys, d, forms = q.shape[1], k.shape[1], q.shape[-1], {}
    if queries >= MANY_QUERIES and 4 * queries * keys <= score_limit and bias is None:
        forms["cpu"] = functools.partial(_head_by_head, scale=scale)
    if (
        bias is None
        and prefers_flash(queries, d, q.dtype, in_blocks=block < queries)
        and flash_works(d, np.dtype(q.dtype), bool(keys % 2))
    ):
        forms["cuda"] = functools.partial(_flash, scale=scale)
    # The platform is the one that is lowered for, which need not be this machine's.
    return jax.lax.platform_dependent(q, k, v, **forms, default=plain) if forms else plain(q, k, v)


def _queries_at_once(q, k, score_limit: int) -> int:
    """How many queries have scores within the limit on a device that holds its share of the batch; at least 1."""
    devices = max(jax.sharding.get_abstract_mesh().size, 1)  # 0 without a mesh
    bytes_a_query = 4 * math.ceil(q.shape[0] / devices) * q.shape[2] * k.shape[1]
    return min(q.shape[1], max(1, score_limit // bytes_a_query))


def prefers_flash(queries: int, d: int, dtype, *, in_blocks: bool) -> bool:
    """Whether cuDNN's flash attention is worth its call and takes these: 16 bits, heads a multiple of 8 up to 256 wide.

    It is where queries are many, or so many sequences of few (windows) that all their scores are too large. Its gradient refuses odd
    lengths in JAX 0.10, those of the queries for good.
    """
    return (
        (queries >= MANY_QUERIES or in_blocks)
        and queries % 2 == 0
        and d % 8 == 0
        and d <= 256
        and dtype in (jnp.bfloat16, jnp.float16)
    )


@functools.cache
def flash_works(d: int, dtype: np.dtype, odd: bool) -> bool:
    """Whether cuDNN's flash attention runs on this machine's GPU and agrees with the plain form; tried once, says why not.

    odd: with an odd number of keys.
    """
    try:
        device = jax.local_devices(backend="cuda")[0]
    except RuntimeError:  # no such GPU
        return assume_flash and d <= 128  # wider heads are accepted only with the GPU there
    with ThreadPoolExecutor(
        1
    ) as apart:  # a step may be in the middle of being traced here, for a mesh of many devices
        reason = apart.submit(flash_fault, _flash, d, dtype, 333 if odd else 334, device).result()
    if reason:
        _report(reason)
    return not reason


def flash_fault(flash, d: int, dtype: np.dtype, keys: int, device: jax.Device) -> str:
    """Runs flash(q, k, v, scale=...) and its gradient on a small input of so many keys -> why it is not to be used; empty if it is."""
    rng = np.random.default_rng(0)
    q, k, v, g = (
        jax.device_put(rng.standard_normal((1, n, 2, d), np.float32).astype(dtype), device)
        for n in (MANY_QUERIES, keys, keys, MANY_QUERIES)
    )

    @functools.partial(jax.jit, static_argnums=0)
    def both(function, *qkv):
        out, vjp = jax.vjp(functools.partial(function, scale=d**-0.5), *qkv)
        return [x.astype(jnp.float32) for x in (out, *vjp(g))]

    try:
        theirs = both(flash, q, k, v)
    except Exception as error:  # whatever JAX, XLA and cuDNN raise
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    ours = both(functools.partial(_plain, block=MANY_QUERIES), q, k, v)
    far = max(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in zip(theirs, ours))
    return "" if far < 0.05 else f"its results are {far:.0%} off"  # 16 bits leave less than 1 %


@functools.cache
def _report(reason: str) -> None:
    """Once for each reason, though there are several head sizes."""
    logging.getLogger(__name__).warning(
        "cuDNN's flash attention is not used, XLA's attention in its place: %s", reason
    )


def _flash(q, k, v, *, scale: float):
    """An odd number of keys, which its gradient refuses, gets one more, masked: 77 of a published text and 256 of an image, for example."""
    keys, lengths = k.shape[1], None
    if keys % 2:
        k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (k, v))
        lengths = jnp.full(len(q), keys, jnp.int32)
    return jax.nn.dot_product_attention(
        q, k, v, scale=scale, key_value_seq_lengths=lengths, implementation="cudnn"
    )


def _head_by_head(q, k, v, *, scale: float):
    """The scores of one head stay in a CPU's cache, and the backward pass, which computes them again, keeps none."""
    b, _, heads, d = q.shape
    of_heads = lambda x: x.transpose(0, 2, 1, 3).reshape(b * heads, -1, d)
    out = _map_heads(of_heads(q * scale), of_heads(k), of_heads(v))
    return out.reshape(b, heads, -1, d).transpose(0, 2, 1, 3)


@jax.custom_vjp
def _map_heads(q, k, v):
    return _map_heads_forward(q, k, v)[0]


def _map_heads_forward(q, k, v):
    """Q (heads, n, d), k and v (heads, m, d) -> output like q; saves besides them the logarithm of the softmax's denominators."""

    def head(qkv):
        q, k, v = (x.astype(jnp.float32) for x in qkv)
        scores = q @ k.T
        log_sum = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
        return (jnp.exp(scores - log_sum) @ v).astype(qkv[0].dtype), log_sum[:, 0]

    out, log_sum = jax.lax.map(head, (q, k, v))
    return out, (q, k, v, out, log_sum)


def _map_heads_backward(saved, g):
    """With P = softmax(q k^T): dv = P^T g, dP = g v^T, dS = P (dP - sum(out g)); in terms of P^T no product transposes its left operand."""

    def head(values):
        q, k, v, out, log_sum, g = (x.astype(jnp.float32) for x in values)
        p = jnp.exp(k @ q.T - log_sum)  # (m, n)
        ds = p * (v @ g.T - (out * g).sum(-1))
        return (k.T @ ds).T, ds @ q, p @ g

    return tuple(
        gradient.astype(x.dtype) for gradient, x in zip(jax.lax.map(head, (*saved, g)), saved)
    )


_map_heads.defvjp(_map_heads_forward, _map_heads_backward)


def _plain(q, k, v, *, bias=None, scale: float, block: int):
    """block: how many queries at a time."""
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))  # BHND: fastest on CPU by far
    q = q * scale
    out = _attend(q, k, v, bias) if block >= q.shape[2] else _attend_in_blocks(q, k, v, block)
    return out.transpose(0, 2, 1, 3)


def _attend(q, k, v, bias=None):
    scores = _scores(q, k)
    scores = scores if bias is None else scores + bias
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhnm,bhmd->bhnd", weights, v)


@jax.custom_vjp
def _scores(q, k):
    """Q k^T in float32. Its gradient is rounded to the dtype of q, as flash attention's is; autodiff would multiply in float32."""
    return jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=jnp.float32)


def _scores_backward(saved, g):
    q, k = saved
    g = g.astype(q.dtype)
    return jnp.einsum("bhnm,bhmd->bhnd", g, k), jnp.einsum("bhnm,bhnd->bhmd", g, q)


_scores.defvjp(lambda q, k: (_scores(q, k), (q, k)), _scores_backward)


def _attend_in_blocks(q, k, v, block: int):
    b, heads, n, d = q.shape
    blocks = -(-n // block)
    block = -(-n // blocks)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, blocks * block - n), (0, 0)))
    q = q.reshape(b, heads, blocks, block, d).transpose(2, 0, 1, 3, 4)
    out = jax.lax.map(jax.checkpoint(lambda q_block: _attend(q_block, k, v)), q)
    return out.transpose(1, 2, 0, 3, 4).reshape(b, heads, blocks * block, d)[:, :, :n]
