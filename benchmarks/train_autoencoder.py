"""Trains the latent autoencoder of the scenes.

    PYTHONPATH=. python benchmarks/train_autoencoder.py --minutes 15

Trains `Autoencoder` on clean images of the built-in scenes, never on a color map, as Stable
Diffusion's was trained on photographs, and writes it as diffusers does. The learning rate follows
the clock, so that training ends well and in time on a busy machine too; --init continues from such
a folder. Prints the loss every 15 s, and in the end the scaling factor and the held-out PSNR.
"""

import argparse
import math
import os
import pathlib
import time

import numpy as np
import optax

from generalist.configs import common
from generalist.input_pipeline import loader, open_sources
from generalist.tasks import SCENES_TASKS
from generalist.training import host

SIZE = 64
SEED = 0
WARMUP = 20  # steps
LOG_EVERY = 15.0  # seconds
SETTINGS = {"channels": (16, 32, 64), "layers_per_block": 1, "groups": 8}
KL_WEIGHT = 1e-6  # of the mean over the latent's values, against means over the image's
LOGVAR = -6.0  # of an untrained encoder: noise too weak to hide what the decoder has to learn from
EXAMPLES = 200  # held-out images of the PSNR, and training images of the scaling factor


def make_model(latent_channels: int, seed: int | None):
    """Returns the untrained autoencoder."""
    from generalist.models import layers
    from generalist.models.autoencoder import Autoencoder

    return Autoencoder(**SETTINGS, latent_channels=latent_channels, rngs=layers.HostRngs(seed))


def make_step(graphdef, optimizer):
    """Returns the training step, compiled.

    It takes (parameters, optimizer state, images uint8 (b, s, s, 3), key, learning rate) and
    returns (parameters, optimizer state, loss).
    """
    import jax
    import jax.numpy as jnp

    from generalist.models import parameters as parameters_lib

    def loss_fn(values, images, key):
        model = parameters_lib.merge(graphdef, values)
        images = images / 127.5 - 1.0
        mean, logvar = model.encode(images)
        latents = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
        error = model.decode(latents) - images
        kl = 0.5 * (mean**2 + jnp.exp(logvar) - 1.0 - logvar)
        return jnp.abs(error).mean() + (error**2).mean() + KL_WEIGHT * kl.mean()

    def step(values, state, images, key, learning_rate):
        loss, gradients = jax.value_and_grad(loss_fn)(values, images, key)
        updates, state = optimizer.update(gradients, state, values)
        updates = jax.tree.map(lambda x: learning_rate * x, updates)
        return optax.apply_updates(values, updates), state, loss

    return jax.jit(step, donate_argnums=(0, 1))


def image_batches(batch_size: int, seed: int):
    """Returns endless batches of scenes; their depth maps are not used."""
    sources = open_sources(common.scenes(size=str(SIZE)), ["depth"], "train")
    return loader.training_batches(
        sources,
        {"depth": SCENES_TASKS["depth"]},
        {"depth": 1.0},
        seed=seed,
        batch_size=batch_size,
        image_size=SIZE,
        target_size=SIZE,
    )


def first_parameters(latent_channels: int, init: str):
    """Returns (graph definition, parameters) from scratch, or with those of the folder `init`."""
    from generalist.models import parameters as parameters_lib
    from generalist.pretrained.huggingface import read_autoencoder

    graphdef, values = parameters_lib.split(make_model(latent_channels, SEED))
    if init:
        return graphdef, read_autoencoder(init).values
    values["quant_conv.bias"] = np.repeat(np.float32([0, LOGVAR]), latent_channels)
    return graphdef, values


def train(minutes: float, lr: float, batch_size: int, latent_channels: int, init: str = ""):
    """Trains for `minutes`, from scratch or from the folder `init`.

    Returns:
      (graph definition, parameters, number of steps).
    """
    import jax

    from generalist.devices import mesh as mesh_lib

    mesh = mesh_lib.make_mesh()
    # Further training sees other scenes.
    batches = image_batches(batch_size, seed=SEED + bool(init))
    graphdef, values = first_parameters(latent_channels, init)
    values = jax.device_put(values, mesh_lib.replicated(mesh))

    # The step multiplies by the learning rate.
    adamw = optax.adamw(1.0, b2=0.99, weight_decay=1e-4)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), adamw)
    state = jax.device_put(optimizer.init(values), mesh_lib.replicated(mesh))
    step = make_step(graphdef, optimizer)
    print(f"{sum(x.size for x in values.values()):,} parameters, compiling", flush=True)

    done = 0
    began = 0.0
    last_line = 0.0
    fraction = 0.0  # of the time
    while fraction < 1.0:
        images = jax.device_put(next(batches)["image"], mesh_lib.batch_sharding(mesh))
        warmup = min((done + 1) / WARMUP, 1.0)
        rate = np.float32(lr * warmup * 0.5 * (1.0 + math.cos(math.pi * fraction)))
        values, state, loss = step(values, state, images, jax.random.key(done), rate)
        loss = float(loss)
        done += 1

        # The clock starts after the first step: compiling does not count.
        now = time.monotonic()
        began = began or now
        fraction = min((now - began) / (60.0 * minutes), 1.0)
        if now - last_line > LOG_EVERY:
            left = 60.0 * minutes * (1.0 - fraction)
            print(f"step {done} | loss {loss:.4f} | ETA {left:.0f} s", flush=True)
            last_line = now
    return graphdef, values, done


def measure(graphdef, values) -> tuple[float, float]:
    """Measures the scaling factor and the reconstruction.

    Returns:
      1 / standard deviation of the latents of training images, and the mean PSNR in dB of held-out
      images and their reconstructions.
    """
    import jax

    from generalist.metrics import ImageQuality
    from generalist.models import parameters as parameters_lib

    @jax.jit
    def encode(values, image):
        return parameters_lib.merge(graphdef, values).encode(image)

    @jax.jit
    def decode(values, latent):
        return parameters_lib.merge(graphdef, values).decode(latent)

    metric = ImageQuality(protocol="rgb-skimage")
    latents = []
    for split in ("train", "val"):
        source = open_sources(common.scenes(size=str(SIZE)), ["depth"], split, EXAMPLES)["depth"]
        for index in range(EXAMPLES):
            image = source[index]["image"]
            latent, _ = encode(values, image[None] / np.float32(127.5) - 1.0)
            if split == "train":
                latents.append(np.asarray(latent))
                continue
            decoded = np.asarray(decode(values, latent))[0]
            levels = np.rint(np.clip((decoded + 1.0) * 127.5, 0, 255))
            metric.update(np.uint8(levels), image)
    return 1.0 / float(np.std(latents)), metric.compute()["psnr"]


def main() -> None:
    """Trains, measures and writes the autoencoder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15.0, help="training time")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument(
        "--latent_channels", type=int, default=4, help="as Stable Diffusion's; its third has 16"
    )
    parser.add_argument(
        "--init",
        default="",
        metavar="FOLDER",
        help="a folder to continue from (default: from scratch)",
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/autoencoder"))
    args = parser.parse_args()
    if args.out.is_dir() and any(args.out.iterdir()):
        parser.error(f"--out {args.out} is not empty: choose an empty or a new folder")

    # Before JAX is imported by what follows.
    host.use_all_cores(os.cpu_count(), args.batch_size)
    from generalist.pretrained.export import export_component

    graphdef, values, steps = train(
        args.minutes, args.lr, args.batch_size, args.latent_channels, args.init
    )
    scaling_factor, psnr = measure(graphdef, values)
    settings = SETTINGS | {"latent_channels": args.latent_channels}
    settings |= {"scaling_factor": round(scaling_factor, 5)}
    export_component("autoencoder", settings, values, args.out, "float16")
    print(
        f"{args.out}: {steps} steps of {args.batch_size}, scaling factor {scaling_factor:.4f}, "
        f"held-out PSNR {psnr:.2f} dB"
    )


if __name__ == "__main__":
    main()
