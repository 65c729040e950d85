"""Published architectures at full size, the library's own beside ours: PYTHONPATH=. python benchmarks/parity.py --only sd15_unet

No weights are downloaded: the library builds each model of its configuration class with random weights, saves it, and computes;
then it is freed, and ours is read from its folder and computes the same, float32 on the CPU. Prints the largest difference over the
largest value of the library's output (at most 1e-4, else the exit code is 1), seconds of one call of each (ours without compiling)
and the peak memory of the process, of which each case and each side has its own.
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

import numpy as np

LIMIT = 1e-4
VIT_L = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
# name -> (part, class of the library, arguments of its configuration)
CASES = {
    "sd15_unet": (
        "unet",
        "UNet2DConditionModel",
        {"cross_attention_dim": 768, "attention_head_dim": 8},
    ),
    "sd21_unet": (
        "unet",
        "UNet2DConditionModel",
        {
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
    ),
    "clip_l_text": (
        "text_encoder",
        "CLIPTextModel",
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
        },
    ),
    "openclip_h_text": (
        "text_encoder",
        "CLIPTextModel",
        {  # as Stable Diffusion 2.x has it: 23 of 24 layers
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 23,
            "hidden_act": "gelu",
        },
    ),
    "t5_v1_1_large": (
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
    "t5_v1_1_xl": (
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
    "clip_l14_vision": (
        "image_encoder",
        "CLIPVisionModel",
        {**VIT_L, "intermediate_size": 4096, "patch_size": 14},
    ),
    "siglip_so400m_384": (
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
    "siglip2_base": ("image_encoder", "Siglip2VisionModel", {}),
    "dinov2_l": ("image_encoder", "Dinov2Model", {**VIT_L, "image_size": 518}),
    "dinov2_l_registers": (
        "image_encoder",
        "Dinov2WithRegistersModel",
        {**VIT_L, "image_size": 518, "patch_size": 14},
    ),
    "sd_vae_encode": ("autoencoder", "AutoencoderKL", {}),
    "sd_vae_decode": ("autoencoder", "AutoencoderKL", {}),
}
OPTIONAL = ("t5_v1_1_xl",)  # by --only
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


def inputs(name: str) -> dict[str, np.ndarray]:
    """What a case computes on, NHWC."""
    part, _, c = CASES[name]
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    if part == "unet":
        return {
            "x": normal(1, 64, 64, 4),
            "timestep": np.array([481.0], np.float32),
            "tokens": normal(1, 77, c["cross_attention_dim"]),
        }
    if part == "text_encoder":
        return {"ids": rng.integers(0, 32000, (2, 77))}
    if part == "autoencoder":
        return {
            "x": normal(1, 512, 512, 3).clip(-1, 1)
            if name == "sd_vae_encode"
            else normal(1, 32, 32, 4)
        }
    size = {"siglip2_base": 256, "dinov2_l": 224, "dinov2_l_registers": 224}.get(
        name, c.get("image_size", 224)
    )
    return {"x": normal(1, size, size, 3)}


def build(name: str):
    """The library's model with random weights: norms and biases away from the ones and zeros they start at."""
    import diffusers
    import torch
    import transformers

    torch.manual_seed(0)
    part, peer, c = CASES[name]
    if part in ("unet", "autoencoder"):
        model = getattr(diffusers, peer)(**(c if part == "unet" else VAE))
    else:
        kind = getattr(transformers, peer)
        model = kind(kind.config_class(**c))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * (0.1 if p.ndim == 1 else 0.01))
    return model.eval()


def call_peer(name: str, model, x: dict[str, np.ndarray]) -> np.ndarray:
    """The library's output, NHWC or (b, n, d)."""
    import torch

    nchw = lambda a: torch.tensor(a.transpose(0, 3, 1, 2))
    nhwc = lambda a: a.permute(0, 2, 3, 1).numpy()
    with torch.no_grad():
        if name.endswith("unet"):
            return nhwc(
                model(nchw(x["x"]), torch.tensor(x["timestep"]), torch.tensor(x["tokens"])).sample
            )
        if name == "sd_vae_encode":
            return nhwc(model.encode(nchw(x["x"])).latent_dist.mean)
        if name == "sd_vae_decode":
            return nhwc(model.decode(nchw(x["x"])).sample)
        if "ids" in x:
            return model(torch.tensor(x["ids"])).last_hidden_state.numpy()
        if name.startswith("siglip2"):
            from generalist.models import layers

            patches = np.asarray(layers.patchify(x["x"], 16)).reshape(1, -1, 768)
            return model(
                pixel_values=torch.tensor(patches),
                pixel_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long),
                spatial_shapes=torch.tensor([[16, 16]]),
            ).last_hidden_state.numpy()
        return model(pixel_values=nchw(x["x"])).last_hidden_state.numpy()


def make_ours(name: str, folder: pathlib.Path, x: dict[str, np.ndarray]):
    """Our module, read from the folder, as a compiled function without arguments."""
    import jax

    from generalist import pretrained
    from generalist.models import parameters

    model = getattr(pretrained, f"load_{CASES[name][0]}")(folder)
    graphdef, values = parameters.split(model)
    if name == "sd_vae_encode":
        run = lambda values: parameters.merge(graphdef, values).encode(x["x"])[0]
    elif name == "sd_vae_decode":
        run = lambda values: parameters.merge(graphdef, values).decode(x["x"])
    elif "image" in CASES[name][0]:
        side = (
            x["x"].shape[1] // model.patch * model.patch
        )  # what the library leaves out beyond the last patch
        run = lambda values: parameters.merge(graphdef, values)(x["x"][:, :side, :side])
    else:
        run = lambda values: parameters.merge(graphdef, values)(*x.values())
    compiled = jax.jit(run).lower(values).compile()
    return lambda: np.asarray(compiled(values))


def side(name: str, which: str, folder: pathlib.Path) -> dict:
    """One side of a case in this process: its output into the folder, and what it took."""
    x = inputs(name)
    began = time.monotonic()
    if which == "peer":
        model = build(name)
        model.save_pretrained(folder)
        run = lambda: call_peer(name, model, x)
        count = sum(p.numel() for p in model.parameters())
    else:
        run, count = make_ours(name, folder, x), 0
    ready = time.monotonic() - began
    output = run()
    seconds = time.monotonic() - began - ready
    np.save(folder / f"{which}.npy", output)
    return {
        "seconds": seconds,
        "ready": ready,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "parameters": count,
    }


def compare(name: str) -> dict:
    """Both sides of a case, each in a process of its own, and their difference."""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for which in ("peer", "ours"):
            command = [
                sys.executable,
                __file__,
                "--side",
                which,
                "--only",
                name,
                "--folder",
                folder,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name}, {which}: {done.stderr[-3000:]}")
            result[which] = json.loads(done.stdout.splitlines()[-1])
            print(
                f"  {which}: ready after {result[which]['ready']:.0f} s, a call takes {result[which]['seconds']:.2f} s",
                flush=True,
            )
        peer, ours = (np.load(f"{folder}/{which}.npy") for which in ("peer", "ours"))
    if peer.shape != ours.shape:
        raise SystemExit(f"{name}: shape {ours.shape} here, {peer.shape} in the library")
    return {
        **result,
        "shape": peer.shape,
        "difference": float(np.abs(ours - peer).max() / np.abs(peer).max()),
    }


def main() -> int:
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
        print(json.dumps(side(args.only[0], args.side, args.folder)))
        return 0
    chosen = args.only or [name for name in CASES if name not in OPTIONAL]
    versions = ", ".join(
        f"{p} {importlib.metadata.version(p)}"
        for p in ("jax", "flax", "torch", "diffusers", "transformers")
    )
    print(f"Python {platform.python_version()}, {versions}", flush=True)
    rows, began = [], time.monotonic()
    for done, name in enumerate(chosen):
        left = (
            f", about {(time.monotonic() - began) / done * (len(chosen) - done):.0f} s left"
            if done
            else ""
        )
        print(f"[{done + 1}/{len(chosen)}] {name}{left}", flush=True)
        rows.append((name, compare(name)))
    print(
        "\n| model | parameters, M | output | max difference / max value | theirs, s | ours, s | theirs, GB | ours, GB |"
    )
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    for name, r in rows:
        shape = "x".join(map(str, r["shape"]))
        print(
            f"| {name} | {r['peer']['parameters'] / 1e6:.0f} | {shape} | {r['difference']:.1e} | {r['peer']['seconds']:.2f} | "
            f"{r['ours']['seconds']:.2f} | {r['peer']['memory']:.1f} | {r['ours']['memory']:.1f} |"
        )
    failed = [name for name, r in rows if not r["difference"] <= LIMIT]
    print(
        f"\n{len(rows) - len(failed)} of {len(rows)} within {LIMIT:g}"
        + (f"; not: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
