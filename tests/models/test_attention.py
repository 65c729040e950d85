"""Attention: exact, whatever the limit on the scores, and never a larger array than the limit.

And when cuDNN's is taken instead.
"""

import collections
import itertools
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from generalist.models import attention as attention_lib
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
def test_forward_and_gradient_equal_torch_for_any_limit(qkv, torch_result, limit):
    both = jax.jit(
        lambda *qkv: (attention(*qkv, score_limit=limit), *jax.grad(loss, (0, 1, 2))(*qkv, limit))
    )
    for ours, theirs in zip(both(*qkv), torch_result, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-6)


def test_on_a_cpu_many_queries_go_head_by_head_with_the_same_result(qkv, torch_result, monkeypatch):
    monkeypatch.setattr(attention_lib, "MANY_QUERIES", N)

    def both(*qkv):
        return (attention(*qkv), *jax.grad(loss, (0, 1, 2))(*qkv, 2**40))

    for ours, theirs in zip(jax.jit(both)(*qkv), torch_result, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-6)

    def loops(platform):
        return (
            jax.jit(both)
            .trace(*qkv)
            .lower(lowering_platforms=(platform,))
            .as_text()
            .count("stablehlo.while")
        )

    assert (
        loops("cpu") == 3 and loops("tpu") == loops("cuda") == 0
    )  # forward, forward again for the gradient, backward


def equations(jaxpr):
    """Every equation of a jaxpr, those of nested ones included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in itertools.chain.from_iterable(
            jax.tree.leaves([p]) for p in equation.params.values()
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def sizes(jaxpr):
    """Bytes of every array a jaxpr computes."""
    return (
        v.aval.size * v.aval.dtype.itemsize
        for equation in equations(jaxpr)
        for v in equation.outvars
    )


@pytest.mark.parametrize(
    "function", [attention, jax.grad(lambda *a, **kw: attention(*a, **kw).sum(), (0, 1, 2))]
)
def test_no_array_exceeds_the_limit(function):
    q = k = v = jnp.zeros((1, 256, 2, 4))  # 8 KiB each; all scores together 512 KiB
    limit = 16 * 2**10
    blocked = jax.make_jaxpr(lambda *a: function(*a, score_limit=limit))(q, k, v)
    assert max(sizes(blocked.jaxpr)) <= limit
    plain = jax.make_jaxpr(lambda *a: function(*a, score_limit=2**30))(q, k, v)
    assert max(sizes(plain.jaxpr)) == 512 * 2**10


def products(function):
    """Counts the matrix products of function(q, k, v) in bfloat16, by operands and result.

    {"bfloat16 bfloat16 float32": 1}, for example.
    """
    q = jax.ShapeDtypeStruct((1, 8, 2, 4), jnp.bfloat16)
    jaxpr = jax.make_jaxpr(function)(q, q, q)
    assert {x.dtype for x in jaxpr.out_avals} == {jnp.dtype(jnp.bfloat16)}
    return collections.Counter(
        " ".join(v.aval.dtype.name for v in (*e.invars, *e.outvars))
        for e in equations(jaxpr.jaxpr)
        if e.primitive.name == "dot_general"
    )


def test_bfloat16_goes_in_and_out_but_scores_are_float32():
    assert products(attention) == {"bfloat16 bfloat16 float32": 1, "bfloat16 bfloat16 bfloat16": 1}


def test_gradients_of_bfloat16_are_products_of_bfloat16():
    """Two products of the forward pass, two for the gradient of each.

    Float32 operands would take several times as long.
    """
    gradient = jax.grad(lambda *qkv: attention(*qkv).astype(jnp.float32).sum(), (0, 1, 2))
    assert products(gradient) == {"bfloat16 bfloat16 float32": 1, "bfloat16 bfloat16 bfloat16": 5}


@pytest.mark.parametrize(
    ("queries", "d", "dtype", "in_blocks", "expected"),
    [
        (1024, 40, jnp.bfloat16, False, True),
        (4096, 80, jnp.float16, False, True),
        (1024, 160, jnp.bfloat16, False, True),
        (1022, 40, jnp.bfloat16, False, False),  # few
        (256, 40, jnp.bfloat16, True, True),  # few, of many windows
        (1025, 40, jnp.bfloat16, True, False),  # odd
        (1024, 40, jnp.float32, True, False),
        (1024, 44, jnp.bfloat16, False, False),  # no multiple of 8
        (1024, 264, jnp.bfloat16, False, False),
    ],
)  # wider than 256
def test_flash_attention_is_for_sixteen_bit_sequences_long_or_of_many_windows(
    queries, d, dtype, in_blocks, expected
):
    assert (
        attention_lib.prefers_flash(queries, d, jnp.dtype(dtype), in_blocks=in_blocks) is expected
    )


def cuda_text(function, q_shape, keys):
    """function(q, k, v) lowered for CUDA."""
    shapes = [
        jax.ShapeDtypeStruct((q_shape[0], n, *q_shape[2:]), jnp.bfloat16)
        for n in (q_shape[1], keys, keys)
    ]
    return jax.jit(function).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()


@pytest.fixture
def gpu_that_is_not_there(monkeypatch):
    """Programs are lowered as for a Hopper with cuDNN 9.10."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda _: False)
    with attention_lib.assume_flash(True):
        yield


def test_an_odd_number_of_keys_is_padded_and_masked_for_flash_attention(gpu_that_is_not_there):
    """77 tokens of a published text encoder beside 256 of an image.

    Without the padding the gradient would be refused.
    """
    gradient = jax.grad(lambda *qkv: attention(*qkv).astype(jnp.float32).sum(), (0, 1, 2))
    even, odd = (
        cuda_text(lambda *qkv: gradient(*qkv), (2, 1024, 2, 40), keys) for keys in (264, 333)
    )
    for text, mask, keys in ((even, "NO_MASK", 264), (odd, "PADDING", 334)):
        calls = re.findall(
            r"__cudnn\$fmhaSoftmax(Backward)?\(.*?mask_type[^A-Z]*([A-Z_]+)",
            text.replace("\n", " "),
        )
        assert calls == [("", mask), ("Backward", mask)]
        assert f"tensor<2x{keys}x2x40xbf16>" in text


def test_windows_go_by_flash_attention_where_their_scores_are_too_many(gpu_that_is_not_there):
    """256 queries: plain for 8 windows, whose scores take 4 MiB; of 2,048 they would take 1 GiB."""
    assert [
        "fmhaSoftmax" in cuda_text(lambda *qkv: attention(*qkv), (windows, 256, 2, 40), 256)
        for windows in (8, 2048)
    ] == [False, True]


def test_the_limit_is_of_a_device_where_a_mesh_shares_the_batch(monkeypatch):
    """Eight devices: scores of four times the limit go at once, of sixteen times in two blocks."""
    mesh = jax.sharding.AbstractMesh(
        (4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    q = jax.ShapeDtypeStruct((8, 64, 1, 4), jnp.float32)
    scores = 4 * 8 * 64 * 64

    def blocks(limit):
        jaxpr = jax.make_jaxpr(lambda *qkv: attention(*qkv, score_limit=limit))(q, q, q)
        return [e.params["length"] for e in equations(jaxpr.jaxpr) if e.primitive.name == "scan"]

    assert blocks(scores // 4) == [4]
    with jax.sharding.use_abstract_mesh(mesh):
        assert blocks(scores // 4) == [] and blocks(scores // 16) == [2]


@pytest.fixture
def gpu(monkeypatch):
    """flash -> attention() on a machine whose "GPU" (a CPU device) has it.

    Sequences of 32 count as long.
    """
    caches = attention_lib._flash_works_on, attention_lib._report
    monkeypatch.setattr(attention_lib, "MANY_QUERIES", 32)

    def install(flash):
        monkeypatch.setattr(attention_lib, "_flash", flash)
        cpu = jax.local_devices()
        monkeypatch.setattr(jax, "local_devices", lambda backend=None: cpu)
        for cached in caches:  # what was found without it
            cached.cache_clear()
        return lambda *qkv: attention(*qkv)  # a new one, that no cache of jit knows

    yield install
    for cached in caches:
        cached.cache_clear()


def long_inputs(d=8):
    return [jnp.asarray(np.random.default_rng(0).standard_normal((1, 32, 2, d)), jnp.bfloat16)] * 3


def broken(q, k, v, *, scale):
    raise NotImplementedError("cuDNN is not detected.\nA second line.")


def unscaled(q, k, v, *, scale):
    return jax.nn.dot_product_attention(q, k, v, scale=1.0)


def marked(q, k, v, *, scale):
    """Right, and to be found in the lowered program: it alone has a cube root, of 1."""
    return jax.nn.dot_product_attention(q, k, v, scale=scale) * jnp.cbrt(
        jnp.ones((), q.dtype) * (q[0, 0, 0, 0] == q[0, 0, 0, 0])
    )


@pytest.mark.parametrize(
    ("flash", "reason"),
    [
        (broken, "NotImplementedError: cuDNN is not detected."),
        (unscaled, r"its results are \d+% off"),
    ],
)
def test_a_flash_attention_that_does_not_work_is_reported_once_and_not_used(
    gpu, caplog, flash, reason
):
    expected = jax.jit(lambda *qkv: attention(*qkv))(*long_inputs())  # before there is a GPU
    with_gpu = gpu(flash)
    np.testing.assert_array_equal(jax.jit(with_gpu)(*long_inputs()), expected)
    with_gpu(*long_inputs())
    if flash is broken:
        with_gpu(*long_inputs(16))  # for other heads the same reason
    assert len(caplog.messages) == 1
    assert re.fullmatch(
        f"cuDNN's flash attention is not used, XLA's attention in its place: {reason}",
        caplog.messages[0],
    )


def test_a_flash_attention_that_works_is_for_cuda_alone(gpu, caplog):
    """The program lowered for CUDA has it, the one for this machine's CPU has not.

    The same holds for the gradients.
    """
    expected = jax.jit(lambda *qkv: attention(*qkv))(*long_inputs())
    function = gpu(marked)
    gradient = jax.grad(lambda *qkv: function(*qkv).astype(jnp.float32).sum(), (0, 1, 2))
    for traced in (
        jax.jit(function).trace(*long_inputs()),
        jax.jit(gradient).trace(*long_inputs()),
    ):
        text = {
            platform: traced.lower(lowering_platforms=(platform,)).as_text()
            for platform in ("cuda", "cpu")
        }
        assert "cbrt" in text["cuda"] and "cbrt" not in text["cpu"]
    np.testing.assert_array_equal(jax.jit(function)(*long_inputs()), expected)
    assert not caplog.messages


SEVERAL = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
from generalist.models import attention
attention.MANY_QUERIES = 32
attention._flash = lambda q, k, v, *, scale: jax.nn.dot_product_attention(q, k, v, scale=scale)
devices = jax.local_devices()
jax.local_devices = lambda backend=None: devices
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
sharding = jax.NamedSharding(mesh, jax.P("data"))
shape = jax.ShapeDtypeStruct((4, 32, 2, 8), jnp.bfloat16, sharding=sharding)
with jax.set_mesh(mesh):
    jax.jit(lambda *qkv: attention.attention(*qkv)).trace(shape, shape, shape)
    print(attention.flash_works(8, np.dtype(jnp.bfloat16), False))
"""


def test_flash_attention_is_tried_on_one_device_while_a_step_for_several_is_traced():
    result = subprocess.run(
        [sys.executable, "-c", SEVERAL], capture_output=True, text=True, check=True
    )
    assert (result.stdout, result.stderr) == ("True\n", "")
