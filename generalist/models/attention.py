"""Exact softmax attention that never stores a score tensor above a size limit."""

import math

import jax
import jax.numpy as jnp

# Scores are float32; above this many bytes they are computed a block of queries at a time.
SCORE_LIMIT_BYTES = 256 * 2**20


def attention(q, k, v, *, bias=None, scale: float | None = None, score_limit: int = SCORE_LIMIT_BYTES):
    """Multi-head softmax(scale q k^T + bias) v.

    Args:
        q: (b, n, heads, d) queries.
        k: (b, m, heads, d) keys.
        v: (b, m, heads, d) values.
        bias: added to the scores, broadcastable to (b, heads, n, m): a causal mask, relative positions.
        scale: by default 1 / sqrt(d).
        score_limit: bytes of float32 scores that may exist at once. Above it the queries are
            processed in blocks (with no bias; text, which has one, is short) whose scores the backward pass recomputes, so that neither pass
            holds more than one block. The result is the same.

    Returns:
        (b, n, heads, d) in the dtype of `q`. Scores and softmax are float32.
    """
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))  # BHND: fastest on CPU by far
    b, heads, n, _ = q.shape
    bytes_a_query = 4 * b * heads * k.shape[2]
    q = q * (1.0 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if n * bytes_a_query <= score_limit or bias is not None:  # text, with a bias, is short
        out = _attend(q, k, v, bias)
    else:
        out = _attend_in_blocks(q, k, v, max(1, score_limit // bytes_a_query))
    return out.transpose(0, 2, 1, 3)


def _attend(q, k, v, bias=None):
    scores = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=jnp.float32)
    scores = scores if bias is None else scores + bias
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
