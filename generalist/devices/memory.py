"""What to do when a training step does not fit into a device's memory."""

from ml_collections import ConfigDict

GIB = 2**30
GPU_SHARE = 0.92  # of a GPU's memory that JAX takes; its own default is 0.75


def advice(config: ConfigDict, devices: int, state: int, temporaries: int, limit: int) -> str:
    """What to change in `config`, the cheapest first, as flags of main.py.

    Args:
      devices: of the mesh.
      state, temporaries: bytes a device of the step as it was compiled; the temporaries are taken to grow with the batch.
      limit: bytes a device has.
    """
    tips = []
    if config.model.remat != "blocks":
        tips.append(
            "--config.model.remat=blocks (activations of one block at a time, for about a third more arithmetic)"
        )
    if config.sharding.fsdp == 1 and devices > 1:
        tips.append(
            f"--config.sharding.fsdp={max(n for n in range(1, 17) if devices % n == 0)} (parameters, EMA and optimizer state are shared)"
        )
    parts = config.batch_size // devices
    if parts > config.optimizer.accum_steps:
        tips.append(
            f"--config.optimizer.accum_steps={parts} (the batch in {parts} parts, with the same gradient)"
        )
    smaller = int(config.batch_size * (limit - state) / max(temporaries, 1)) // devices * devices
    if 0 < smaller < config.batch_size:
        tips.append(f"--config.batch_size={smaller}")
    if config.optimizer.mu_dtype == "float32":
        tips.append("--config.optimizer.mu_dtype=bfloat16 (2 bytes a parameter)")
    tips.append(
        "a cheaper UNet: --config.model.unet.attention_levels='(False, True, True, False)', or model.unet.patch twice as large"
    )
    return "In this order, try:\n  " + "\n  ".join(tips)
