"""Attention: exact, whatever the limit on the scores, and never a larger array than the limit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from generalist.models.attention import attention

B, N, M, HEADS, D = 2, 50, 24, 2, 4  # 50 is no multiple of any block below
BYTES_A_QUERY = 4 * B * HEADS * M
LIMITS = [1, 7 * BYTES_A_QUERY, 49 * BYTES_A_QUERY, 2**40]


@pytest.fixture(scope="module")
def qkv():
    rng = np.random.default_rng(0)
    return [rng.standard_normal((B, n, HEADS, D), np.float32) for n in (N, M, M)]


@pytest.fixture(scope="module")
def torch_result(qkv):
    """Output, and gradient of sum(output * cos(index)) by q, k and v, of torch's attention."""
    q, k, v = (torch.tensor(x.transpose(0, 2, 1, 3)).requires_grad_() for x in qkv)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    (out * torch.tensor(weights().transpose(0, 2, 1, 3))).sum().backward()
    return [x.detach().numpy().transpose(0, 2, 1, 3) for x in (out, q.grad, k.grad, v.grad)]


def weights():
    return np.cos(np.arange(B * N * HEADS * D, dtype=np.float32)).reshape(B, N, HEADS, D)


def loss(q, k, v, limit):
    return (attention(q, k, v, score_limit=limit) * weights()).sum()


@pytest.mark.parametrize("limit", LIMITS)
def test_forward_and_gradient_equal_torch_for_any_limit(qkv, torch_result, quick_jit, limit):
    both = quick_jit(lambda *qkv: (attention(*qkv, score_limit=limit), *jax.grad(loss, (0, 1, 2))(*qkv, limit)))
    for ours, theirs in zip(both(*qkv), torch_result, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-6)


def sizes(jaxpr):
    """Bytes of every array a jaxpr computes, those of nested ones included."""
    for equation in jaxpr.eqns:
        yield from (v.aval.size * v.aval.dtype.itemsize for v in equation.outvars)
        for inner in itertools.chain.from_iterable(jax.tree.leaves([p]) for p in equation.params.values()):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


@pytest.mark.parametrize("function", [attention, jax.grad(lambda *a, **kw: attention(*a, **kw).sum(), (0, 1, 2))])
def test_no_array_exceeds_the_limit(function):
    q = k = v = jnp.zeros((1, 256, 2, 4))  # 8 KiB each; all scores together 512 KiB
    limit = 16 * 2**10
    blocked = jax.make_jaxpr(lambda *a: function(*a, score_limit=limit))(q, k, v)
    assert max(sizes(blocked.jaxpr)) <= limit
    plain = jax.make_jaxpr(lambda *a: function(*a, score_limit=2**30))(q, k, v)
    assert max(sizes(plain.jaxpr)) == 512 * 2**10


def test_bfloat16_goes_in_and_out_but_scores_are_float32():
    q = jax.ShapeDtypeStruct((1, 8, 2, 4), jnp.bfloat16)
    jaxpr = jax.make_jaxpr(attention)(q, q, q)
    assert jaxpr.out_avals[0].dtype == jnp.bfloat16
    scores = [v.aval for e in jaxpr.jaxpr.eqns for v in e.outvars if v.aval.shape == (1, 2, 8, 8) and e.primitive.name == "dot_general"]
    assert [x.dtype for x in scores] == [jnp.float32]
