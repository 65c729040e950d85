"""Where arrays live: a (data, fsdp) mesh, batches over both axes, large parameters over fsdp."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(fsdp: int = 1) -> Mesh:
    """All devices as a (data, fsdp) mesh. Raises ValueError if `fsdp` does not divide their number."""
    devices = jax.device_count()
    if fsdp < 1 or devices % fsdp:
        raise ValueError(f"sharding.fsdp={fsdp} does not divide the {devices} devices: choose a divisor of {devices}")
    return jax.make_mesh((devices // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are split along their first axis over every device."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def shard_largest_axis(mesh: Mesh, tree, min_size: int = 2**16):
    """A tree of NamedSharding: each array of at least `min_size` elements is split over fsdp along its largest divisible axis."""
    fsdp = mesh.shape["fsdp"]

    def rule(x) -> NamedSharding:
        axes = [i for i in np.argsort(x.shape)[::-1] if x.shape[i] % fsdp == 0]
        if fsdp == 1 or x.size < min_size or not axes:
            return replicated(mesh)
        spec = [None] * x.ndim
        spec[axes[0]] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(rule, tree)


def to_global(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This process's part of a batch -> global arrays."""
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
