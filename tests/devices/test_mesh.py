"""Which axis of which array is split over which devices."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from generalist.devices import mesh as mesh_lib

MESH = AbstractMesh((2, 4), ("data", "fsdp"))  # eight devices, without having them


def spec_of(shape, *, mesh=MESH, **settings):
    tree = {"parameters": {"unet.conv_in.kernel": jax.ShapeDtypeStruct(shape, np.float32)}}
    (found,) = jax.tree.leaves(
        mesh_lib.tree_shardings(mesh, tree, {"rules": (), "min_size": 1024} | settings)
    )
    assert found.mesh == mesh
    return found.spec


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((256, 512), (None, "fsdp")),  # the larger axis
        ((512, 256), ("fsdp",)),
        ((3, 3, 1026, 512), (None, None, None, "fsdp")),  # the largest that 4 divides
        ((1025, 1023), ()),  # none does
        ((8,), ()),  # too small to be worth it
    ],
)
def test_large_arrays_are_split_along_their_largest_divisible_axis(shape, spec):
    assert spec_of(shape) == PartitionSpec(*spec)


@pytest.mark.parametrize(
    ("rule", "spec"),
    [(("conv_in", None), ()), (("kernel$", 0), ("fsdp",)), (("^parameters/", -1), (None, "fsdp"))],
)
def test_the_first_rule_that_matches_decides(rule, spec):
    assert spec_of((64, 512), rules=(rule, (".", 1))) == PartitionSpec(*spec)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            ("convin", 0),
            "the pattern 'convin' matches none of the 1 paths, such as "
            "'parameters/unet.conv_in.kernel'",
        ),
        (
            ("conv_in", 2),
            r"\('conv_in', 2\) cannot split parameters/unet.conv_in.kernel of shape \(64, 511\) "
            "into 4",
        ),
        (("conv_in", 1), "cannot split"),
    ],
)
def test_a_wrong_rule_is_an_error(rule, said):
    with pytest.raises(ValueError, match=said):
        spec_of((64, 511), rules=(rule,))


def test_ema_and_optimizer_state_follow_the_rules_of_parameters():
    parameters = {"unet.conv_in.kernel": jax.ShapeDtypeStruct((64, 512), np.float32)}
    state = {"ema": parameters, "optimizer": jax.eval_shape(optax.adam(1e-3).init, parameters)}
    specs = [
        s.spec
        for s in jax.tree.leaves(
            mesh_lib.tree_shardings(MESH, state, {"rules": (("conv_in", 0),), "min_size": 1024})
        )
    ]
    assert sorted(map(tuple, specs)) == [
        (),
        ("fsdp",),
        ("fsdp",),
        ("fsdp",),
    ]  # Adam's count, and EMA, mu and nu


def test_nothing_is_split_without_fsdp():
    assert spec_of((2**10, 2**10), mesh=AbstractMesh((8, 1), ("data", "fsdp"))) == PartitionSpec()


def test_batches_are_split_over_every_device():
    assert mesh_lib.batch_sharding(MESH).shard_shape((16, 32, 32, 3)) == (2, 32, 32, 3)
    assert mesh_lib.replicated(MESH).shard_shape((16, 3)) == (16, 3)


def test_mesh_has_all_devices():
    mesh = mesh_lib.make_mesh()
    assert dict(mesh.shape) == {"data": jax.device_count(), "fsdp": 1}


@pytest.mark.parametrize("fsdp", [0, jax.device_count() + 1])
def test_fsdp_must_divide_the_devices(fsdp):
    with pytest.raises(
        ValueError, match=f"sharding.fsdp={fsdp} does not divide the {jax.device_count()} devices"
    ):
        mesh_lib.make_mesh(fsdp)


@dataclasses.dataclass(frozen=True)
class Device:
    """What JAX says of a device; of GPUs every host is a slice."""

    id: int
    slice_index: int
    process_index: int
    platform: str = "gpu"
    device_kind: str = "H100"
    coords: tuple[int, int, int] = (0, 0, 0)
    core_on_chip: int = 0


def test_fsdp_stays_on_a_host_of_gpus_where_it_fits_and_else_goes_over_hosts():
    gpus = [Device(i, i // 8, i // 8) for i in range(32)]

    def hosts(fsdp):
        rows = mesh_lib.make_mesh(fsdp, gpus).devices
        return [sorted({gpu.process_index for gpu in row}) for row in rows]

    assert hosts(4) == [[0], [0], [1], [1], [2], [2], [3], [3]]
    assert hosts(16) == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="sharding.fsdp=24 does not divide the 32 devices"):
        mesh_lib.make_mesh(24, gpus)


def test_fsdp_stays_within_a_slice_of_tpus():
    tpus = [
        Device(i, i // 8, i // 4, "tpu", "TPU v6 lite", (i % 2, i // 2 % 4, 0)) for i in range(16)
    ]
    assert [{tpu.slice_index for tpu in row} for row in mesh_lib.make_mesh(4, tpus).devices] == [
        {0},
        {0},
        {1},
        {1},
    ]
    with pytest.raises(
        ValueError, match="sharding.fsdp=16 does not divide the 8 devices of a slice"
    ):
        mesh_lib.make_mesh(16, tpus)


def test_to_global_keeps_values_and_types():
    n = jax.device_count()
    split = mesh_lib.batch_sharding(mesh_lib.make_mesh())
    rows = mesh_lib.rows_of_process(split, 2 * n)
    np.testing.assert_array_equal(rows, np.arange(2 * n))  # one process makes all
    batch = {
        "image": np.arange(n * 8, dtype=np.uint8).reshape(2 * n, 4),
        "task": np.arange(2 * n, dtype=np.int32),
    }
    arrays = mesh_lib.to_global(batch, split, rows, 2 * n)
    for name, value in batch.items():
        assert arrays[name].dtype == value.dtype and arrays[name].sharding == split
        np.testing.assert_array_equal(arrays[name], value)


def test_a_batch_that_the_devices_cannot_share_is_an_error():
    with pytest.raises(
        ValueError, match="batch_size 12 is not divisible by the 8 devices: choose a multiple of 8"
    ):
        mesh_lib.rows_of_process(mesh_lib.batch_sharding(MESH), 12)
    with pytest.raises(
        ValueError,
        match="batch_size 8 is not divisible by the 8 devices times optimizer.accum_steps=2: "
        "choose a multiple of 16",
    ):
        mesh_lib.rows_of_process(mesh_lib.batch_sharding(MESH), 8, 2)


def test_parts_of_starting_weights_are_cut_by_numpy(monkeypatch):
    """JAX would compile a program for every part of every parameter, in every process."""
    monkeypatch.setattr(
        jax, "make_array_from_callback", lambda shape, split, part: part((slice(1, 3),))
    )
    whole = {"unet.bias": jax.numpy.arange(4.0)}
    part = mesh_lib.place_on_devices(
        whole, {"unet.bias": mesh_lib.replicated(mesh_lib.make_mesh())}
    )["unet.bias"]
    assert isinstance(part, np.ndarray) and part.tolist() == [1.0, 2.0]


def test_split_kernels_travel_in_the_dtype_of_their_use_and_get_float32_gradients():
    mesh = AbstractMesh((1, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    shapes = {
        name: jax.ShapeDtypeStruct((64, 64), np.float32)
        for name in ("a.kernel", "a.embedding", "small.kernel")
    }
    split = {
        "a.kernel": NamedSharding(mesh, PartitionSpec("fsdp")),
        "a.embedding": NamedSharding(mesh, PartitionSpec("fsdp")),
        "small.kernel": mesh_lib.replicated(mesh),
    }

    def gather(values):
        return mesh_lib.gather_parameters(values, split, "bfloat16")

    assert {path: x.dtype.name for path, x in jax.eval_shape(gather, shapes).items()} == {
        "a.kernel": "bfloat16",
        "a.embedding": "float32",
        "small.kernel": "float32",
    }
    gradients = jax.eval_shape(
        jax.grad(lambda values: sum(x.astype(np.float32).sum() for x in gather(values).values())),
        shapes,
    )
    assert {x.dtype.name for x in gradients.values()} == {"float32"}
