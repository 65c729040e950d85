"""Where arrays live: a (data, fsdp) mesh over the devices of all processes, batches over both axes, large parameters over fsdp."""

import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """`devices` (default: all, of every process) as a (data, fsdp) mesh whose neighbours are neighbours in the network.

    On several TPU slices, and on hosts of GPUs where it fits, fsdp stays within one, where the network is fast, and data goes over them.
    Raises ValueError if `fsdp` does not divide the number of devices of a slice, or of all GPUs.
    """
    devices = jax.devices() if devices is None else devices
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    count = len(devices) // slices
    if (
        fsdp > 0 and count % fsdp and devices[0].platform == "gpu"
    ):  # every host of GPUs counts as a slice: fsdp may go over several
        slices, count = 1, len(devices)
    if fsdp < 1 or count % fsdp:
        where = " of a slice" if slices > 1 else ""
        raise ValueError(
            f"sharding.fsdp={fsdp} does not divide the {count} devices{where}: choose a divisor of {count}"
        )
    shape = (count // fsdp, fsdp)
    if slices > 1:
        grid = mesh_utils.create_hybrid_device_mesh(
            shape, (slices, 1), devices, allow_split_physical_axes=True
        )
    else:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are split along their first axis over every device."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def spread(parts, mesh: Mesh):
    """Arrays (n, b, ...) of n parts of a batch, inside a jitted function -> each part split over every device."""
    return jax.lax.with_sharding_constraint(
        parts, NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def of_tree(mesh: Mesh, tree, settings: Mapping):
    """A tree of NamedSharding: which axis of every array is split over fsdp.

    Args:
      tree: of arrays or their shapes: parameters, or a State, whose EMA and optimizer state follow the same rules.
      settings: the `sharding` group of a config. `rules`: (regex, axis) rows, of which the first that matches
        (re.search) a path such as "parameters/unet.conv_in.kernel" decides; the axis None keeps the array whole. An array without a rule
        is split along its largest axis that fsdp divides, if it has at least `min_size` elements.

    Raises:
      ValueError: a rule matches no path, or names an axis that the array does not have or fsdp does not divide.
    """
    fsdp, rules = mesh.shape["fsdp"], settings["rules"]
    paths = ["/".join(map(_name, path)) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    for pattern, _ in rules:
        if not any(re.search(pattern, path) for path in paths):
            raise ValueError(
                f"sharding.rules: the pattern {pattern!r} matches none of the {len(paths)} paths, such as {paths[0]!r}"
            )

    def spec(path: str, x) -> PartitionSpec:
        pattern, axis = next((row for row in rules if re.search(row[0], path)), (None, None))
        if pattern is None:
            axes = [i for i in np.argsort(x.shape)[::-1] if x.shape[i] % fsdp == 0]
            axis = axes[0] if axes and x.size >= settings["min_size"] else None
        elif axis is not None and (not -x.ndim <= axis < x.ndim or x.shape[axis] % fsdp):
            raise ValueError(
                f"sharding.rules: ({pattern!r}, {axis}) cannot split {path} of shape {x.shape} into {fsdp}"
            )
        return (
            PartitionSpec(*(None,) * (axis % x.ndim), "fsdp")
            if axis is not None and fsdp > 1
            else PartitionSpec()
        )

    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(
        [NamedSharding(mesh, spec(path, x)) for path, x in zip(paths, leaves)]
    )


def _name(key) -> str:
    return str(next(getattr(key, field) for field in ("name", "key", "idx") if hasattr(key, field)))


def gather(values, shardings, dtype):
    """Split parameters {path: array} -> whole ones on every device, for one use in a jitted function; gradients are summed back into the split.

    Said explicitly, as the compiler otherwise splits activations by the weights: it moves more, in more small pieces. Kernels travel as
    `dtype`, in which the model uses them: half the bytes of float32.
    """

    def one(path: str, value):
        split = shardings[path]
        if split.is_fully_replicated:
            return value
        whole = lambda x: jax.lax.with_sharding_constraint(x, replicated(split.mesh))
        use = jax.custom_vjp(whole)
        use.defvjp(
            lambda x: (whole(x), None),
            lambda _, gradient: (jax.lax.with_sharding_constraint(gradient, split),),
        )
        return use(value.astype(dtype) if path.endswith(".kernel") else value)

    return {path: one(path, value) for path, value in values.items()}


def place(values, shardings):
    """Arrays in host memory, the same in every process -> global arrays; each device receives only its part."""

    def one(x, split):
        x = np.asarray(x)  # cut by NumPy: JAX would compile a program for each part
        return jax.make_array_from_callback(x.shape, split, lambda index: x[index])

    return jax.tree.map(one, values, shardings)


def to_host(x: jax.Array) -> np.ndarray:
    """The whole array in host memory. Where its parts are on several processes, all must call it."""
    if not x.is_fully_addressable and not x.is_fully_replicated:
        x = jax.device_put(x, replicated(x.sharding.mesh))
    return np.asarray(x)


def rows_of_process(sharding: NamedSharding, batch_size: int, accumulate: int = 1) -> np.ndarray:
    """The rows of a global batch that the devices of this process hold, ascending. ValueError if they cannot share each part equally."""
    if batch_size % (sharding.mesh.size * accumulate):
        parts = f" times the {accumulate} parts of optimizer.accum_steps" if accumulate > 1 else ""
        raise ValueError(
            f"batch_size {batch_size} is not divisible by the {sharding.mesh.size} devices{parts}: "
            f"choose a multiple of {sharding.mesh.size * accumulate}"
        )
    parts = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[part] for part in parts]))


def to_global(
    batch: Mapping[str, np.ndarray], sharding: NamedSharding, rows: np.ndarray, batch_size: int
) -> dict[str, jax.Array]:
    """The `rows` of a batch that this process made -> global arrays."""

    def make(value: np.ndarray) -> jax.Array:
        part = lambda index: value[slice(*np.searchsorted(rows, index[0].indices(batch_size)[:2]))]
        return jax.make_array_from_callback((batch_size, *value.shape[1:]), sharding, part)

    return {name: make(value) for name, value in batch.items()}
