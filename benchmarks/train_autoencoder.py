"""The latent autoencoder of the scenes: python benchmarks/train_autoencoder.py --minutes 15

Trains `Autoencoder` on clean images of the built-in scenes, never on a colour map, as Stable Diffusion's was trained on photographs,
and writes it as diffusers does. The learning rate follows the clock, so that training ends well and in time on a busy machine too;
--init continues from such a folder.
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
from generalist.training import launch

SIZE, SEED = 64, 0
WARMUP = 20  # steps
LOG_EVERY = 15.0  # seconds
SETTINGS = {"channels": (16, 32, 64), "layers_per_block": 1, "latent_channels": 4, "groups": 8}
KL_WEIGHT = 1e-6  # of the mean over the latent's values, against means over the image's
LOGVAR = -6.0  # of an untrained encoder: noise too weak to hide what the decoder has to learn from
EXAMPLES = 200  # held-out images of the PSNR, and training images of the scaling factor


def make_model(seed: int | None):
    """The untrained autoencoder."""
    from generalist.models import layers
    from generalist.models.autoencoder import Autoencoder

    return Autoencoder(**SETTINGS, rngs=layers.HostRngs(seed))


def make_step(graphdef, optimizer):
    """(parameters, optimizer state, images uint8 (b, s, s, 3), key, learning rate) -> (parameters, optimizer state, loss)."""
    import jax
    import jax.numpy as jnp

    from generalist.models import parameters as parameters_lib

    def loss(values, images, key):
        model, images = parameters_lib.merge(graphdef, values), images / 127.5 - 1.0
        mean, logvar = model.encode(images)
        error = (
            model.decode(mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)) - images
        )
        kl = 0.5 * (mean**2 + jnp.exp(logvar) - 1.0 - logvar)
        return jnp.abs(error).mean() + (error**2).mean() + KL_WEIGHT * kl.mean()

    def step(values, state, images, key, lr):
        value, gradients = jax.value_and_grad(loss)(values, images, key)
        updates, state = optimizer.update(gradients, state, values)
        return optax.apply_updates(values, jax.tree.map(lambda x: lr * x, updates)), state, value

    return jax.jit(step, donate_argnums=(0, 1))


def train(minutes: float, lr: float, batch_size: int, init: str = ""):
    """Trains for `minutes`, from scratch or from the folder `init`; returns (graphdef, parameters, number of steps)."""
    import jax

    from generalist.devices import mesh as sharding
    from generalist.models import parameters as parameters_lib
    from generalist.pretrained.huggingface import read_autoencoder

    mesh, config = sharding.make_mesh(), common.scenes()
    sources = open_sources(config, ["depth"], "train")  # its images; the depth maps are not used
    batches = loader.training_batches(
        sources,
        {"depth": SCENES_TASKS["depth"]},
        {"depth": 1.0},
        seed=SEED + bool(init),
        batch_size=batch_size,
        image_size=SIZE,
        target_size=SIZE,
    )
    graphdef, values = parameters_lib.split(make_model(SEED))
    values["quant_conv.bias"] = np.repeat(np.float32([0, LOGVAR]), SETTINGS["latent_channels"])
    values = jax.device_put(
        read_autoencoder(init).values if init else values, sharding.replicated(mesh)
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1.0, b2=0.99, weight_decay=1e-4)
    )  # times `learning_rate`
    step, state, share, done, began, said = (
        make_step(graphdef, optimizer),
        optimizer.init(values),
        0.0,
        0,
        0.0,
        0.0,
    )
    state = jax.device_put(state, sharding.replicated(mesh))
    print(f"{sum(x.size for x in values.values()):,} parameters, compiling", flush=True)
    while share < 1.0:
        images = jax.device_put(next(batches)["image"], sharding.batch_sharding(mesh))
        learning_rate = lr * min((done + 1) / WARMUP, 1.0) * 0.5 * (1.0 + math.cos(math.pi * share))
        values, state, loss = step(
            values, state, images, jax.random.key(done), np.float32(learning_rate)
        )
        loss, done, now = float(loss), done + 1, time.monotonic()
        began = began or now  # compiling does not count
        share = min((now - began) / (60.0 * minutes), 1.0)
        if now - said > LOG_EVERY:
            print(
                f"step {done} | loss {loss:.4f} | ETA {60.0 * minutes * (1.0 - share):.0f} s",
                flush=True,
            )
            said = now
    return graphdef, values, done


def measure(graphdef, values) -> tuple[float, float]:
    """(1 / standard deviation of the latents of training images, mean PSNR in dB of held-out images and their reconstructions)."""
    import jax

    from generalist.metrics import ImageQuality
    from generalist.models import parameters as parameters_lib

    encode, decode = (
        jax.jit(lambda v, x, name=name: getattr(parameters_lib.merge(graphdef, v), name)(x))
        for name in ("encode", "decode")
    )
    config, metric, latents = common.scenes(), ImageQuality(protocol="rgb-skimage"), []
    for split in ("train", "val"):
        source = open_sources(config, ["depth"], split, EXAMPLES)["depth"]
        for example in (source[i] for i in range(EXAMPLES)):
            latent, _ = encode(values, example["image"][None] / np.float32(127.5) - 1.0)
            if split == "train":
                latents.append(np.asarray(latent))
            else:
                decoded = np.asarray(decode(values, latent))[0]
                metric.update(
                    np.uint8(np.rint(np.clip((decoded + 1.0) * 127.5, 0, 255))), example["image"]
                )
    return 1.0 / float(np.std(latents)), metric.compute()["psnr"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15.0, help="training time")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--batch_size", type=int, default=8)
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
    launch.use_all_cores(os.cpu_count(), args.batch_size)
    from generalist.pretrained.export import export_component

    graphdef, values, steps = train(args.minutes, args.lr, args.batch_size, args.init)
    scaling_factor, psnr = measure(graphdef, values)
    export_component(
        "autoencoder",
        SETTINGS | {"scaling_factor": round(scaling_factor, 5)},
        values,
        args.out,
        "float16",
    )
    print(
        f"{args.out}: {steps} steps of {args.batch_size}, scaling factor {scaling_factor:.4f}, held-out PSNR {psnr:.2f} dB"
    )


if __name__ == "__main__":
    main()
