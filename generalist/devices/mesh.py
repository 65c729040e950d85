"""Where arrays live: a (data, fsdp) mesh over the devices of all processes.

Batches are split over both axes, large parameters over fsdp.
"""

import importlib.metadata
import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges devices as a (data, fsdp) mesh whose neighbors are neighbors in the network.

    On several TPU slices, and on hosts of GPUs where it fits, fsdp stays within one slice or host,
    where the network is fast, and data goes over them.

    Args:
      fsdp: how many devices share parameters, EMA and optimizer state.
      devices: None takes all, of every process.

    Raises:
      ValueError: `fsdp` does not divide the number of devices of a slice, or of all GPUs.
    """
    devices = jax.devices() if devices is None else devices
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    count = len(devices) // slices

    # Every host of GPUs counts as a slice, but fsdp may go over several hosts.
    if fsdp > 0 and count % fsdp and devices[0].platform == "gpu":
        slices = 1
        count = len(devices)

    if fsdp < 1 or count % fsdp:
        where = " of a slice" if slices > 1 else ""
        raise ValueError(
            f"sharding.fsdp={fsdp} does not divide the {count} devices{where}: "
            f"choose a divisor of {count}"
        )

    shape = (count // fsdp, fsdp)
    if slices > 1:
        grid = mesh_utils.create_hybrid_device_mesh(
            shape, (slices, 1), devices, allow_split_physical_axes=True
        )
    else:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def describe_devices(mesh: Mesh) -> str:
    """Returns one line: devices, mesh and the versions that decide what they compute."""
    versions = [
        f"{package} {importlib.metadata.version(package)}"
        for package in ("jax", "flax", "optax", "numpy")
    ]
    kind = jax.devices()[0].device_kind
    return (
        f"devices: {jax.device_count()} x {kind} ({jax.default_backend()}), "
        f"mesh {dict(mesh.shape)}; {', '.join(versions)}"
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits the first axis of a batch over every device."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Keeps the same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def shard_microbatches(microbatches, mesh: Mesh):
    """Splits each of n microbatches, arrays (n, b, ...), over every device; inside `jax.jit`."""
    sharding = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))
    return jax.lax.with_sharding_constraint(microbatches, sharding)


def tree_shardings(mesh: Mesh, tree, settings: Mapping):
    """Decides which axis of every array of a tree is split over fsdp.

    Args:
      mesh: from `make_mesh`.
      tree: arrays or their shapes: parameters, or a State, whose EMA and optimizer state follow the
        same rules.
      settings: the `sharding` group of a config. `rules` has rows (regex, axis): the first whose
        regex matches (re.search) a path such as "parameters/unet.conv_in.kernel" decides; the axis
        None keeps the array whole. An array without a rule is split along its largest axis that
        fsdp divides, if it has at least `min_size` elements.

    Returns:
      The tree with a NamedSharding in place of every array.

    Raises:
      ValueError: a rule matches no path, or names an axis that the array does not have or that fsdp
        does not divide.
    """
    fsdp = mesh.shape["fsdp"]
    rules = settings["rules"]
    leaves, structure = jax.tree.flatten(tree)
    keys = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    paths = ["/".join(map(_name, key)) for key in keys]

    # A rule without a match is misspelled, and would do nothing.
    for pattern, _ in rules:
        if not any(re.search(pattern, path) for path in paths):
            raise ValueError(
                f"sharding.rules: the pattern {pattern!r} matches none of the {len(paths)} paths, "
                f"such as {paths[0]!r}"
            )

    shardings = []
    for path, x in zip(paths, leaves, strict=True):
        axis = _axis_by_rule(path, x, rules, fsdp, settings["min_size"])
        spec = PartitionSpec()
        if axis is not None and fsdp > 1:
            spec = PartitionSpec(*(None,) * (axis % x.ndim), "fsdp")
        shardings.append(NamedSharding(mesh, spec))
    return structure.unflatten(shardings)


def _axis_by_rule(path: str, x, rules: Sequence, fsdp: int, min_size: int) -> int | None:
    """The axis of an array to split, or None to keep it whole."""
    for pattern, axis in rules:
        if re.search(pattern, path):
            if axis is not None and (not -x.ndim <= axis < x.ndim or x.shape[axis] % fsdp):
                raise ValueError(
                    f"sharding.rules: ({pattern!r}, {axis}) cannot split {path} of shape {x.shape} "
                    f"into {fsdp}"
                )
            return axis

    if x.size < min_size:
        return None
    largest_first = np.argsort(x.shape)[::-1]
    return next((int(axis) for axis in largest_first if x.shape[axis] % fsdp == 0), None)


def _name(key) -> str:
    """The name in one key of a tree's path: of a field, of a dict's item, or of a list's."""
    return str(next(getattr(key, field) for field in ("name", "key", "idx") if hasattr(key, field)))


def shardings_of(tree):
    """Returns the tree with the sharding in place of every array, or of its shape."""
    return jax.tree.map(lambda x: x.sharding, tree)


def gather_parameters(values: Mapping[str, jax.Array], shardings: Mapping, dtype):
    """Makes split parameters {path: array} whole on every device, for one use inside `jax.jit`.

    Gradients are summed back into the split. Without this the compiler splits activations by the
    weights: it moves more, in more small pieces. Kernels travel as `dtype`, in which the model uses
    them: bfloat16 is half the bytes of float32.
    """
    whole = {}
    for path, value in values.items():
        if shardings[path].is_fully_replicated:
            whole[path] = value
        else:
            use = _gather_with_split_gradient(shardings[path])
            whole[path] = use(value.astype(dtype) if path.endswith(".kernel") else value)
    return whole


def _gather_with_split_gradient(split: NamedSharding):
    def gather(x):
        return jax.lax.with_sharding_constraint(x, replicated(split.mesh))

    def forward(x):
        return gather(x), None

    def backward(_, gradient):
        return (jax.lax.with_sharding_constraint(gradient, split),)

    use = jax.custom_vjp(gather)
    use.defvjp(forward, backward)
    return use


def place_on_devices(values, shardings):
    """Turns arrays in host memory, the same in every process, into global arrays.

    Each device receives only its part.
    """

    def place(x, sharding):
        x = np.asarray(x)  # NumPy cuts it: JAX would compile a program for each part
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, values, shardings)


def to_host(x: jax.Array) -> np.ndarray:
    """Copies the whole array into host memory.

    Where its parts are on several processes, all of them must call it.
    """
    if not x.is_fully_addressable and not x.is_fully_replicated:
        x = jax.device_put(x, replicated(x.sharding.mesh))
    return np.asarray(x)


def rows_of_process(sharding: NamedSharding, batch_size: int, accum_steps: int = 1) -> np.ndarray:
    """Returns the rows of a global batch that the devices of this process hold, ascending.

    Raises ValueError if the devices cannot share each microbatch equally.
    """
    unit = sharding.mesh.size * accum_steps
    if batch_size % unit:
        times = f" times optimizer.accum_steps={accum_steps}" if accum_steps > 1 else ""
        raise ValueError(
            f"batch_size {batch_size} is not divisible by the {sharding.mesh.size} devices{times}: "
            f"choose a multiple of {unit}"
        )
    slices = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[rows] for rows in slices]))


def to_global(
    batch: Mapping[str, np.ndarray], sharding: NamedSharding, rows: np.ndarray, batch_size: int
) -> dict[str, jax.Array]:
    """Turns the `rows` of a batch that this process made into global arrays."""

    def make(value: np.ndarray) -> jax.Array:
        def of_device(index):
            first, last, _ = index[0].indices(batch_size)
            return value[slice(*np.searchsorted(rows, (first, last)))]

        return jax.make_array_from_callback((batch_size, *value.shape[1:]), sharding, of_device)

    return {name: make(value) for name, value in batch.items()}
