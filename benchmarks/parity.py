"""Published architectures at full size, the library's own beside ours.

    PYTHONPATH=. python benchmarks/parity.py --only sd15_unet

No weights are downloaded: the library builds each model of its configuration class with random
weights, saves it, and computes. Then ours is read from its folder and computes the same, float32 on
the CPU. Prints a table: the largest difference over the largest value of the library's output (at
most 1e-4, else the exit code is 1), seconds of one call of each (ours without compiling), and the
peak memory of the process, of which each case and each side has its own.
"""

import argparse
import importlib.metadata
import json
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np

LIMIT = 1e-4
VIT_L = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}


class Case(NamedTuple):
    """A published model.

    Attributes:
      part: what it is of ours, as in `generalist.pretrained.load_<part>`.
      peer: its class in the library.
      config: arguments of the class's configuration.
    """

    part: str
    peer: str
    config: dict


CASES = {
    "sd15_unet": Case(
        "unet",
        "UNet2DConditionModel",
        {"cross_attention_dim": 768, "attention_head_dim": 8},
    ),
    "sd21_unet": Case(
        "unet",
        "UNet2DConditionModel",
        {
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
    ),
    "clip_l_text": Case(
        "text_encoder",
        "CLIPTextModel",
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
        },
    ),
    # As Stable Diffusion 2.x has it: 23 of 24 layers.
    "openclip_h_text": Case(
        "text_encoder",
        "CLIPTextModel",
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 23,
            "hidden_act": "gelu",
        },
    ),
    "t5_v1_1_large": Case(
        "text_encoder",
        "T5EncoderModel",
        {
            "d_model": 1024,
            "d_ff": 2816,
            "num_layers": 24,
            "num_heads": 16,
            "feed_forward_proj": "gated-gelu",
        },
    ),
    "t5_v1_1_xl": Case(
        "text_encoder",
        "T5EncoderModel",
        {
            "d_model": 2048,
            "d_ff": 5120,
            "num_layers": 24,
            "num_heads": 32,
            "feed_forward_proj": "gated-gelu",
        },
    ),
    "clip_l14_vision": Case(
        "image_encoder",
        "CLIPVisionModel",
        {**VIT_L, "intermediate_size": 4096, "patch_size": 14},
    ),
    "siglip_so400m_384": Case(
        "image_encoder",
        "SiglipVisionModel",
        {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        },
    ),
    "siglip2_base": Case("image_encoder", "Siglip2VisionModel", {}),
    "dinov2_l": Case("image_encoder", "Dinov2Model", {**VIT_L, "image_size": 518}),
    "dinov2_l_registers": Case(
        "image_encoder",
        "Dinov2WithRegistersModel",
        {**VIT_L, "image_size": 518, "patch_size": 14},
    ),
    "sd_vae_encode": Case("autoencoder", "AutoencoderKL", {}),
    "sd_vae_decode": Case("autoencoder", "AutoencoderKL", {}),
}

# Large: only with --only.
OPTIONAL = ("t5_v1_1_xl",)

VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}

# Sides of the images where they are not the configuration's `image_size`. DINOv2's positions of 518
# pixels are interpolated for 224, as it is used.
IMAGE_SIDES = {"siglip2_base": 256, "dinov2_l": 224, "dinov2_l_registers": 224}


def inputs(name: str) -> dict[str, np.ndarray]:
    """Returns what a case computes on, NHWC."""
    case = CASES[name]
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape, np.float32)

    if case.part == "unet":
        return {
            "x": normal(1, 64, 64, 4),
            "timestep": np.array([481.0], np.float32),
            "tokens": normal(1, 77, case.config["cross_attention_dim"]),
        }
    if case.part == "text_encoder":
        return {"ids": rng.integers(0, 32000, (2, 77))}
    if name == "sd_vae_encode":
        return {"x": normal(1, 512, 512, 3).clip(-1, 1)}
    if name == "sd_vae_decode":
        return {"x": normal(1, 32, 32, 4)}
    side = IMAGE_SIDES.get(name, case.config.get("image_size", 224))
    return {"x": normal(1, side, side, 3)}


def build(name: str):
    """Returns the library's model with random weights.

    Norms and biases are moved away from the ones and zeros they start at.
    """
    import diffusers
    import torch
    import transformers

    torch.manual_seed(0)
    case = CASES[name]
    if case.part == "unet":
        model = getattr(diffusers, case.peer)(**case.config)
    elif case.part == "autoencoder":
        model = getattr(diffusers, case.peer)(**VAE)
    else:
        model_class = getattr(transformers, case.peer)
        model = model_class(model_class.config_class(**case.config))

    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.1 if parameter.ndim == 1 else 0.01
            parameter.add_(torch.randn_like(parameter) * scale)
    return model.eval()


def call_peer(name: str, model, x: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the library's output, NHWC or (b, n, d)."""
    import torch

    def nchw(array):
        return torch.tensor(array.transpose(0, 3, 1, 2))

    def nhwc(tensor):
        return tensor.permute(0, 2, 3, 1).numpy()

    with torch.no_grad():
        if name.endswith("unet"):
            timestep = torch.tensor(x["timestep"])
            return nhwc(model(nchw(x["x"]), timestep, torch.tensor(x["tokens"])).sample)
        if name == "sd_vae_encode":
            return nhwc(model.encode(nchw(x["x"])).latent_dist.mean)
        if name == "sd_vae_decode":
            return nhwc(model.decode(nchw(x["x"])).sample)
        if "ids" in x:
            return model(torch.tensor(x["ids"])).last_hidden_state.numpy()
        if name.startswith("siglip2"):
            return _call_siglip2(model, x["x"])
        return model(pixel_values=nchw(x["x"])).last_hidden_state.numpy()


def _call_siglip2(model, image: np.ndarray) -> np.ndarray:
    """SigLIP 2 takes patches, a mask of them and their grid."""
    import torch

    from generalist.models import layers

    patches = np.asarray(layers.patchify(image, 16)).reshape(1, -1, 768)
    output = model(
        pixel_values=torch.tensor(patches),
        pixel_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long),
        spatial_shapes=torch.tensor([[16, 16]]),
    )
    return output.last_hidden_state.numpy()


def make_ours(name: str, folder: pathlib.Path, x: dict[str, np.ndarray]):
    """Returns our module, read from the folder, as a compiled function without arguments."""
    import jax

    from generalist import pretrained
    from generalist.models import parameters

    part = CASES[name].part
    model = getattr(pretrained, f"load_{part}")(folder)
    graphdef, values = parameters.split(model)

    def call(values):
        model = parameters.merge(graphdef, values)
        if name == "sd_vae_encode":
            return model.encode(x["x"])[0]
        if name == "sd_vae_decode":
            return model.decode(x["x"])
        if part == "image_encoder":
            # The library leaves out what is beyond the last whole patch.
            side = x["x"].shape[1] // model.patch * model.patch
            return model(x["x"][:, :side, :side])
        return model(*x.values())

    compiled = jax.jit(call).lower(values).compile()
    return lambda: np.asarray(compiled(values))


def measure(name: str, which: str, folder: pathlib.Path) -> dict:
    """Computes one side of a case in this process: its output into the folder, and its cost."""
    x = inputs(name)
    count = 0
    began = time.monotonic()
    if which == "peer":
        model = build(name)
        model.save_pretrained(folder)
        count = sum(parameter.numel() for parameter in model.parameters())
        ready = time.monotonic() - began
        output = call_peer(name, model, x)
    else:
        call = make_ours(name, folder, x)
        ready = time.monotonic() - began
        output = call()
    seconds = time.monotonic() - began - ready

    np.save(folder / f"{which}.npy", output)
    return {
        "seconds": seconds,
        "ready": ready,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "parameters": count,
    }


def compare(name: str) -> dict:
    """Runs both sides of a case, each in a process of its own, and returns their difference."""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for which in ("peer", "ours"):
            command = [sys.executable, __file__, "--side", which]
            command += ["--only", name, "--folder", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name}, {which}: {done.stderr[-3000:]}")

            cost = json.loads(done.stdout.splitlines()[-1])
            result[which] = cost
            print(
                f"  {which}: ready after {cost['ready']:.0f} s, "
                f"a call takes {cost['seconds']:.2f} s",
                flush=True,
            )
        peer = np.load(f"{folder}/peer.npy")
        ours = np.load(f"{folder}/ours.npy")

    if peer.shape != ours.shape:
        raise SystemExit(f"{name}: shape {ours.shape} here, {peer.shape} in the library")
    difference = float(np.abs(ours - peer).max() / np.abs(peer).max())
    return {**result, "shape": peer.shape, "difference": difference}


def print_table(results: dict[str, dict]) -> None:
    """Prints a row a case."""
    print(
        "\n| model | parameters, M | output | max difference / max value "
        "| theirs, s | ours, s | theirs, GB | ours, GB |"
    )
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    for name, result in results.items():
        peer = result["peer"]
        ours = result["ours"]
        shape = "x".join(map(str, result["shape"]))
        print(
            f"| {name} | {peer['parameters'] / 1e6:.0f} | {shape} | {result['difference']:.1e} "
            f"| {peer['seconds']:.2f} | {ours['seconds']:.2f} "
            f"| {peer['memory']:.1f} | {ours['memory']:.1f} |"
        )


def main() -> int:
    """Compares the cases and prints their table; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(CASES),
        metavar="NAME",
        help=f"of {', '.join(CASES)} (default: all but {', '.join(OPTIONAL)})",
    )
    parser.add_argument("--side", choices=["peer", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.only[0], args.side, args.folder)))
        return 0

    packages = ("jax", "flax", "torch", "diffusers", "transformers")
    versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    print(f"Python {platform.python_version()}, {', '.join(versions)}", flush=True)

    chosen = args.only or [name for name in CASES if name not in OPTIONAL]
    results = {}
    began = time.monotonic()
    for done, name in enumerate(chosen):
        left = ""
        if done:
            seconds = (time.monotonic() - began) / done * (len(chosen) - done)
            left = f", about {seconds:.0f} s left"
        print(f"[{done + 1}/{len(chosen)}] {name}{left}", flush=True)
        results[name] = compare(name)

    print_table(results)
    failed = [name for name, result in results.items() if not result["difference"] <= LIMIT]
    text = f"; not: {', '.join(failed)}" if failed else ""
    print(f"\n{len(results) - len(failed)} of {len(results)} within {LIMIT:g}{text}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
