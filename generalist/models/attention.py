"""Exact softmax attention that never stores a score tensor above a size limit."""

import functools
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

# Scores are float32; above this many bytes they are computed a block of queries at a time.
SCORE_LIMIT_BYTES = 256 * 2**20

# From so many queries on, cuDNN's flash attention is taken on CUDA, and one head at a time on CPU;
# scores of fewer are small.
MANY_QUERIES = 1024

# `with assume_flash(True):` programs are compiled for GPUs that are not there to try it on.
# JAX traces a jitted function again when the value changes.
assume_flash = jax.make_user_context(default_value=False)


def attention(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b m heads d"],
    v: Float[Array, "b m heads d"],
    *,
    bias: Float[Array, "..."] | None = None,
    scale: float | None = None,
    score_limit: int = SCORE_LIMIT_BYTES,
) -> Float[Array, "b n heads d"]:
    """Multi-head softmax(scale q k^T + bias) v.

    Args:
        q: queries.
        k: keys.
        v: values.
        bias: added to the scores, broadcastable to (b, heads, n, m): a causal mask, relative
            positions.
        scale: by default 1 / sqrt(d).
        score_limit: bytes of float32 scores that may exist at once on a device; under a mesh
            (`jax.set_mesh`) the batch counts as split over all of it. Above the limit the queries
            are processed in blocks whose scores the backward pass recomputes, so that neither pass
            holds more than one block; not with a bias, since text, which has one, is short. The
            result is the same.

    Returns:
        The output in the dtype of `q`. Scores and softmax are float32.
    """
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    if bias is not None:
        return _plain(q, k, v, bias=bias, scale=scale, block=q.shape[1])

    queries = q.shape[1]
    keys = k.shape[1]
    d = q.shape[-1]
    block = _queries_at_once(q, k, score_limit)

    # Faster forms, by the platform that is compiled for, which need not be this machine's.
    forms = {}
    if queries >= MANY_QUERIES and 4 * queries * keys <= score_limit:
        forms["cpu"] = functools.partial(_head_by_head, scale=scale)
    takes_flash = prefers_flash(queries, d, q.dtype, in_blocks=block < queries)
    if takes_flash and flash_works(d, np.dtype(q.dtype), odd=keys % 2 == 1):
        forms["cuda"] = functools.partial(_flash, scale=scale)

    plain = functools.partial(_plain, scale=scale, block=block)
    if not forms:
        return plain(q, k, v)
    return jax.lax.platform_dependent(q, k, v, **forms, default=plain)


def _queries_at_once(q, k, score_limit: int) -> int:
    """Returns how many queries, at least 1, have scores within the limit on a device.

    A device holds its fraction of the batch.
    """
    devices = max(jax.sharding.get_abstract_mesh().size, 1)  # 0 without a mesh
    bytes_a_query = 4 * math.ceil(q.shape[0] / devices) * q.shape[2] * k.shape[1]
    return min(q.shape[1], max(1, score_limit // bytes_a_query))


def prefers_flash(queries: int, d: int, dtype: DTypeLike, *, in_blocks: bool) -> bool:
    """Returns whether cuDNN's flash attention takes such inputs and is worth its call.

    It takes 16 bits and heads a multiple of 8 up to 256 wide. It is worth its call if queries are
    many, or so many sequences of few (windows) that all their scores are too large. Its gradient
    refuses odd lengths in JAX 0.10, those of the queries for good.
    """
    worth_it = queries >= MANY_QUERIES or in_blocks
    sixteen_bits = dtype in (jnp.bfloat16, jnp.float16)
    return worth_it and queries % 2 == 0 and d % 8 == 0 and d <= 256 and sixteen_bits


def flash_works(d: int, dtype: np.dtype, odd: bool) -> bool:
    """Returns whether cuDNN's flash attention runs on this machine's GPU and agrees with `_plain`.

    Without a GPU it is what `assume_flash` says, for heads up to 128 wide; wider ones are accepted
    only after a try.

    Args:
        d: width of a head.
        dtype: of queries, keys and values.
        odd: whether the number of keys is odd.
    """
    try:
        device = jax.local_devices(backend="cuda")[0]
    except RuntimeError:  # no such GPU
        return assume_flash.value and d <= 128
    return _flash_works_on(device, d, dtype, odd)


@functools.cache
def _flash_works_on(device: jax.Device, d: int, dtype: np.dtype, odd: bool) -> bool:
    """Tries flash attention, once for each kind of input; logs why it does not work."""
    # A thread of its own: this one may be tracing a step for a mesh of many devices.
    with ThreadPoolExecutor(1) as apart:
        reason = apart.submit(flash_fault, _flash, d, dtype, 333 if odd else 334, device).result()
    if reason:
        _report(reason)
    return not reason


def flash_fault(
    flash: Callable[..., Array], d: int, dtype: np.dtype, keys: int, device: jax.Device
) -> str:
    """Runs flash(q, k, v, scale=...) and its gradient on a small input.

    Returns:
        Why it is not to be used; empty if it is.
    """
    rng = np.random.default_rng(0)
    q, k, v, g = (
        jax.device_put(rng.standard_normal((1, n, 2, d), np.float32).astype(dtype), device)
        for n in (MANY_QUERIES, keys, keys, MANY_QUERIES)
    )

    @functools.partial(jax.jit, static_argnums=0)
    def output_and_gradients(function, *qkv):
        out, vjp = jax.vjp(functools.partial(function, scale=d**-0.5), *qkv)
        return [x.astype(jnp.float32) for x in (out, *vjp(g))]

    try:
        theirs = output_and_gradients(flash, q, k, v)
    except Exception as error:  # whatever JAX, XLA and cuDNN raise
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"

    # 16 bits leave less than 1 % between two right results.
    ours = output_and_gradients(functools.partial(_plain, block=MANY_QUERIES), q, k, v)
    deviations = [
        float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
        for a, b in zip(theirs, ours, strict=True)
    ]
    return "" if max(deviations) < 0.05 else f"its results are {max(deviations):.0%} off"


@functools.cache
def _report(reason: str) -> None:
    """Logs each reason once, though there are several head sizes."""
    logging.getLogger(__name__).warning(
        "cuDNN's flash attention is not used, XLA's attention in its place: %s", reason
    )


def _flash(q, k, v, *, scale: float):
    """Computes attention by cuDNN.

    Its gradient refuses an odd number of keys (77 of a published text and 256 of an image, for
    example): they get one more, masked.
    """
    keys = k.shape[1]
    lengths = None
    if keys % 2:
        one_more = ((0, 0), (0, 1), (0, 0), (0, 0))
        k = jnp.pad(k, one_more)
        v = jnp.pad(v, one_more)
        lengths = jnp.full(len(q), keys, jnp.int32)
    return jax.nn.dot_product_attention(
        q, k, v, scale=scale, key_value_seq_lengths=lengths, implementation="cudnn"
    )


def _head_by_head(q, k, v, *, scale: float):
    """Computes attention one head at a time.

    The scores of one head stay in a CPU's cache, and the backward pass, which computes them again,
    keeps none.
    """
    b, _, heads, d = q.shape

    def split_heads(x):
        return x.transpose(0, 2, 1, 3).reshape(b * heads, -1, d)

    out = _map_heads(split_heads(q * scale), split_heads(k), split_heads(v))
    return out.reshape(b, heads, -1, d).transpose(0, 2, 1, 3)


@jax.custom_vjp
def _map_heads(q, k, v):
    """Maps over heads: q (heads, n, d), k and v (heads, m, d) -> output like q."""
    return _map_heads_forward(q, k, v)[0]


def _map_heads_forward(q, k, v):
    """Saves, besides inputs and output, the logarithm of the softmax's denominators."""

    def head(qkv):
        q, k, v = (x.astype(jnp.float32) for x in qkv)
        scores = q @ k.T
        log_sum = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
        out = jnp.exp(scores - log_sum) @ v
        return out.astype(qkv[0].dtype), log_sum[:, 0]

    out, log_sum = jax.lax.map(head, (q, k, v))
    return out, (q, k, v, out, log_sum)


def _map_heads_backward(saved, g):
    """Returns the gradients by q, k and v.

    With P = softmax(q k^T): dv = P^T g, dP = g v^T, dS = P (dP - sum(out g)). In terms of P^T no
    product transposes its left operand.
    """

    def head(values):
        q, k, v, out, log_sum, g = (x.astype(jnp.float32) for x in values)
        p = jnp.exp(k @ q.T - log_sum)  # (m, n)
        ds = p * (v @ g.T - (out * g).sum(-1))
        return (k.T @ ds).T, ds @ q, p @ g

    # As many gradients as inputs: `saved` begins with them.
    gradients = jax.lax.map(head, (*saved, g))
    return tuple(gradient.astype(x.dtype) for gradient, x in zip(gradients, saved[:3], strict=True))


_map_heads.defvjp(_map_heads_forward, _map_heads_backward)


def _plain(q, k, v, *, bias=None, scale: float, block: int):
    """Computes attention in XLA's own operations, `block` queries at a time."""
    # (b, heads, n, d): fastest on CPU by far.
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    q = q * scale
    if block >= q.shape[2]:
        out = _attend(q, k, v, bias)
    else:
        out = _attend_in_blocks(q, k, v, block)
    return out.transpose(0, 2, 1, 3)


def _attend(q, k, v, bias=None):
    scores = _scores(q, k)
    if bias is not None:
        scores = scores + bias
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhnm,bhmd->bhnd", weights, v)


@jax.custom_vjp
def _scores(q, k):
    """Returns q k^T in float32.

    Its gradient is rounded to the dtype of q, as flash attention's is; autodiff would multiply in
    float32.
    """
    return jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=jnp.float32)


def _scores_forward(q, k):
    return _scores(q, k), (q, k)


def _scores_backward(saved, g):
    q, k = saved
    g = g.astype(q.dtype)
    return jnp.einsum("bhnm,bhmd->bhnd", g, k), jnp.einsum("bhnm,bhnd->bhmd", g, q)


_scores.defvjp(_scores_forward, _scores_backward)


def _attend_in_blocks(q, k, v, block: int):
    # As many blocks as `block` asks for, but of equal size, so that little padding is needed.
    b, heads, n, d = q.shape
    blocks = math.ceil(n / block)
    block = math.ceil(n / blocks)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, blocks * block - n), (0, 0)))
    q = q.reshape(b, heads, blocks, block, d).transpose(2, 0, 1, 3, 4)

    # A block's scores are computed again in the backward pass: kept, they would be all scores.
    @jax.checkpoint
    def attend_block(q_block):
        return _attend(q_block, k, v)

    out = jax.lax.map(attend_block, q)
    return out.transpose(1, 2, 0, 3, 4).reshape(b, heads, blocks * block, d)[:, :, :n]
