"""Exact softmax attention that never stores a score tensor above a size limit."""

import math

import jax
import jax.numpy as jnp

# Scores are float32; above this many bytes they are computed a block of queries at a time.
SCORE_LIMIT_BYTES = 256 * 2**20


def attention(q, k, v, *, score_limit: int = SCORE_LIMIT_BYTES):
    """Multi-head softmax(q k^T / sqrt(d)) v.

    Args:
        q: (b, n, heads, d) queries.
        k: (b, m, heads, d) keys.
        v: (b, m, heads, d) values.
        score_limit: bytes of float32 scores that may exist at once. Above it the queries are
            processed in blocks whose scores the backward pass recomputes, so that neither pass
            holds more than one block. The result is the same.

    Returns:
        (b, n, heads, d) in the dtype of `q`. Scores and softmax are float32.
    """
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))  # BHND: fastest on CPU by far
    b, heads, n, _ = q.shape
    bytes_a_query = 4 * b * heads * k.shape[2]
    if n * bytes_a_query <= score_limit:
        out = _attend(q, k, v)
    else:
        out = _attend_in_blocks(q, k, v, max(1, score_limit // bytes_a_query))
    return out.transpose(0, 2, 1, 3)


def _attend(q, k, v):
    scale = 1.0 / math.sqrt(q.shape[-1])
    scores = jnp.einsum("bhnd,bhmd->bhnm", q * scale, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhnm,bhmd->bhnd", weights, v)


def _attend_in_blocks(q, k, v, block: int):
    b, heads, n, d = q.shape
    blocks = -(-n // block)
    block = -(-n // blocks)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, blocks * block - n), (0, 0)))
    q = q.reshape(b, heads, blocks, block, d).transpose(2, 0, 1, 3, 4)
    out = jax.lax.map(jax.checkpoint(lambda q_block: _attend(q_block, k, v)), q)
    return out.transpose(1, 2, 0, 3, 4).reshape(b, heads, blocks * block, d)[:, :, :n]
