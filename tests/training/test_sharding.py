"""Which axis of which array is split over which devices."""

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from generalist.training import sharding

MESH = AbstractMesh((2, 4), ("data", "fsdp"))  # eight devices, without having them


@pytest.mark.parametrize(("shape", "spec"), [
    ((256, 512), (None, "fsdp")),  # the larger axis
    ((512, 256), ("fsdp", None)),
    ((3, 3, 1026, 512), (None, None, None, "fsdp")),  # the largest that 4 divides
    ((1025, 1023), ()),  # none does
    ((8,), ()),  # too small to be worth it
])
def test_large_arrays_are_split_along_their_largest_divisible_axis(shape, spec):
    tree = {"a": jax.ShapeDtypeStruct(shape, np.float32)}
    found = sharding.shard_largest_axis(MESH, tree, min_size=1024)["a"]
    assert (found.mesh, found.spec) == (MESH, PartitionSpec(*spec))


def test_nothing_is_split_without_fsdp():
    mesh = AbstractMesh((8, 1), ("data", "fsdp"))
    assert sharding.shard_largest_axis(mesh, jax.ShapeDtypeStruct((2**10, 2**10), np.float32)).spec == PartitionSpec()


def test_batches_are_split_over_every_device():
    assert sharding.batch_sharding(MESH).shard_shape((16, 32, 32, 3)) == (2, 32, 32, 3)
    assert sharding.replicated(MESH).shard_shape((16, 3)) == (16, 3)


def test_mesh_has_all_devices():
    mesh = sharding.make_mesh()
    assert dict(mesh.shape) == {"data": jax.device_count(), "fsdp": 1}


@pytest.mark.parametrize("fsdp", [0, jax.device_count() + 1])
def test_fsdp_must_divide_the_devices(fsdp):
    with pytest.raises(ValueError, match=f"sharding.fsdp={fsdp} does not divide the {jax.device_count()} devices"):
        sharding.make_mesh(fsdp)


def test_to_global_keeps_values_and_types():
    n = jax.device_count()
    batch = {"image": np.arange(n * 4, dtype=np.uint8).reshape(n, 4), "task": np.arange(n, dtype=np.int32)}
    arrays = sharding.to_global(batch, sharding.batch_sharding(sharding.make_mesh()))
    for name, value in batch.items():
        assert arrays[name].dtype == value.dtype
        np.testing.assert_array_equal(arrays[name], value)
