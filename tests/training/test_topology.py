"""What a machine that is not there needs: the text of a compiled program read by hand, CUDA
lowered, a TPU where its compiler is installed.
"""

import collections
import importlib.util
import logging
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from generalist.devices import memory
from generalist.devices.mesh import make_mesh
from generalist.recipe import Recipe
from generalist.training import topology
from generalist.training.topology import Traffic

ROOT = pathlib.Path(__file__).parents[2]
HLO = """
  %all-gather.1 = bf16[64,32]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=1
  %ag = (f32[8,4]{1,0}, f32[32,4]{1,0:T(8,128)}) all-gather-start(%p), channel_id=2
  %agd = f32[32,4]{1,0} all-gather-done(%ag)
  %all-reduce.2 = (f32[16]{0}, f32[]{:T(128)}, /*index=5*/s32[2,3]{1,0}) all-reduce(%a, %b, %c)
  %ars = f32[10]{0} all-reduce-start(%a), to_apply=%add
  %fusion = f32[10]{0} fusion(%all-reduce.2), kind=kLoop
  %all-gather.3 = bf16[64,32]{1,0} all-gather(%p), channel_id=1, backend_config="step 2"
  %all-reduce.4 = f32[3]{0} all-reduce(%d), channel_id=1, to_apply=%add
  %all-reduce.5 = f32[3]{0} all-reduce(%e), channel_id=1, to_apply=%add
"""


def test_collectives_are_counted_with_what_a_device_receives():
    """64 * 32 * 2 bytes and 32 * 4 * 4; (16 + 1 + 6) * 4, 10 * 4 and twice 3 * 4."""
    assert topology.count_collectives(HLO) == {
        "all-gather": Traffic(2, 4096 + 512),
        "all-reduce": Traffic(4, 92 + 40 + 24),
    }


def test_cost_of_a_product_by_hand():
    """A (256, 512) x (512, 128) product of float32: 2 * 256 * 512 * 128 FLOP, (256 * 512 + 512 *
    128 + 256 * 128) * 4 bytes.
    """
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((256, 512), (512, 128))]
    lowered = jax.jit(jnp.matmul).lower(*shapes)
    found = topology.measure(lowered, 2**20)
    assert (found.flops, found.state, found.fits, found.collectives) == (
        2 * 256 * 512 * 128,
        917504,
        True,
        {},
    )
    assert not topology.measure(lowered, 900_000).fits


def test_the_step_of_a_config_lowers_for_cuda(tiny_config, caplog):
    with caplog.at_level(logging.INFO, logger="generalist"):
        topology.compile_for(tiny_config, "cuda")
    lines = caplog.messages
    assert [line.split(" lowers to ")[0] for line in lines[:2]] == [
        "cuda: the training step",
        "cuda: the sampling step",
    ]
    training, sampling = (
        float(re.search(r"([\d.]+) GFLOP an image", line)[1]) for line in lines[:2]
    )
    assert training > 2.5 * sampling > 0


def test_the_bfloat16_step_multiplies_in_bfloat16_without_stray_transposes_and_in_place(
    tiny_config,
):
    """Read from the step as it is lowered for CUDA, forward and backward pass, optimizer and
    average.
    """
    tiny_config.model.dtype = "bfloat16"
    tiny_config.model.unet.update({"channels": (16, 32), "attention_levels": (False, True)})
    tiny_config.diffusion.prototype_weight = 0.0  # colors are compared in float32
    mesh = make_mesh(1, jax.local_devices()[:1])
    lowered = topology.lower_programs(Recipe.from_config(tiny_config), mesh, "cuda").training
    text = lowered.as_text()
    types = {
        kind: re.findall(rf"stablehlo\.{kind}\b.* : \((.*)\) -> (tensor<[^>]*>)", text)
        for kind in ("convolution", "dot_general", "transpose")
    }
    assert len(types["convolution"]) == text.count("stablehlo.convolution(") > 80
    assert not [shapes for shapes in types["convolution"] if "f32" in "".join(shapes)]

    operands = [operands for operands, _ in types["dot_general"] if "f32" in operands]
    assert len(types["dot_general"]) > 250
    assert operands == ["tensor<4xf32>, tensor<4x6xf32>"]  # losses by task

    orders = collections.Counter(re.findall(r"stablehlo\.transpose.* dims = \[([\d, ]+)\]", text))
    assert orders.total() == len(types["transpose"])
    # Of weights, or of their gradients: merged into the product by every compiler.
    assert orders.pop("1, 0") > 50
    # Queries, keys, values, the result and their gradients; one attention in the image encoder.
    transformers = 4
    heads = orders.pop("0, 2, 1, 3") + orders.pop("0, 1, 3, 2")
    assert heads <= 9 * (2 * transformers + 1) + 1
    # Pixels to blocks and back: two stems, and the gradients of all but the input.
    assert orders.pop("0, 1, 3, 2, 4, 5") == 7
    assert orders.total() <= 4  # features resized to two levels

    arguments = text[text.index("@main(") : text.index(") -> (", text.index("@main("))]
    assert arguments.count("tf.aliasing_output") == len(jax.tree.leaves(lowered.out_info[0]))


def test_an_unknown_chip_lists_the_known(tiny_config):
    with pytest.raises(
        ValueError,
        match="--topology=v9:2x2: choose 'cuda', or a chip of v4, v5e, v5p, v6e, h100, h200 "
        "with its grid",
    ):
        topology.compile_for(tiny_config, "v9:2x2")


def test_without_the_compiler_the_error_names_the_install_line(tiny_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(ImportError, match=r"pip install -e '.\[tpu\]'"):
        topology.compile_for(tiny_config, "v5e:2x4")


def test_advice_names_the_cheapest_first(tiny_config):
    """4 GiB of state and 24 of temporaries for a batch of 64 on 8 devices of 16 GiB: half of the
    temporaries fit, so half of the batch.
    """
    tiny_config.batch_size = 64
    tips = memory.advice(
        tiny_config, 8, 4 * memory.GIB, 24 * memory.GIB, 16 * memory.GIB
    ).splitlines()[1:]
    wanted = (
        "model.remat=blocks",
        "sharding.fsdp=8",
        "optimizer.accum_steps=8",
        "batch_size=32",
        "mu_dtype=bfloat16",
        "a cheaper UNet",
    )
    assert all(name in tip for name, tip in zip(wanted, tips, strict=True))
    assert "sharding.fsdp=12 " in memory.advice(
        tiny_config, 24, 0, 1, 1
    )  # a divisor of the devices
    tiny_config.model.remat, tiny_config.sharding.fsdp = "blocks", 8
    assert "remat" not in memory.advice(tiny_config, 8, 0, 1, 1) and "fsdp" not in memory.advice(
        tiny_config, 8, 0, 1, 1
    )


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the TPU's compiler is not installed: pip install -e '.[tpu]'",
)
def test_the_tiny_step_compiles_for_a_tpu():
    """In a process of its own, as the compiler stays in the process and talks on stderr."""
    config = "tests/integration/tinier.py"
    result = subprocess.run(
        [
            sys.executable,
            ROOT / "main.py",
            f"--config={ROOT / config}",
            "--mode=compile",
            "--topology=v5e:2x4",
            "--config.sharding.fsdp=4",
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert "v5e:2x4: 8 chips, mesh {'data': 2, 'fsdp': 4}, batch 8 (1 a chip)" in result.stdout
    assert "training: fits: " in result.stdout and "sampling: fits: " in result.stdout
