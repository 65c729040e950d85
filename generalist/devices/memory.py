"""What to do when a training step does not fit into a device's memory."""

from ml_collections import FrozenConfigDict

GIB = 2**30
GPU_SHARE = 0.92  # fraction of a GPU's memory that JAX takes; its own default is 0.75


def advice(config: FrozenConfigDict, devices: int, state: int, temporaries: int, limit: int) -> str:
    """Returns what to change in `config`, the cheapest first, as flags of main.py.

    Args:
      config: of the run.
      devices: of the mesh.
      state: bytes a device of state and batch, as the step was compiled.
      temporaries: bytes a device besides; they are taken to grow with the batch.
      limit: bytes a device has.
    """
    tips = []
    if config.model.remat != "blocks":
        tips.append(
            "--config.model.remat=blocks (activations of one block at a time, for about a third "
            "more arithmetic)"
        )
    if config.sharding.fsdp == 1 and devices > 1:
        fsdp = max(n for n in range(1, 17) if devices % n == 0)
        tips.append(
            f"--config.sharding.fsdp={fsdp} (parameters, EMA and optimizer state are shared)"
        )

    accum_steps = config.batch_size // devices
    if accum_steps > config.optimizer.accum_steps:
        tips.append(
            f"--config.optimizer.accum_steps={accum_steps} (the batch in {accum_steps} "
            "microbatches, with the same gradient)"
        )

    fraction = (limit - state) / max(temporaries, 1)
    smaller = int(config.batch_size * fraction) // devices * devices
    if 0 < smaller < config.batch_size:
        tips.append(f"--config.batch_size={smaller}")
    if config.optimizer.mu_dtype == "float32":
        tips.append("--config.optimizer.mu_dtype=bfloat16 (2 bytes a parameter)")
    tips.append(
        "a cheaper UNet: --config.model.unet.attention_levels='(False, True, True, False)', or "
        "model.unet.patch twice as large"
    )
    return "In this order, try:\n  " + "\n  ".join(tips)
