"""The same captions painted here and by diffusers' and transformers' own classes.

    pip install -e '.[test]'
    python benchmarks/text_to_image_in_diffusers.py --from prior --out results/prior

`--from` is a folder that `generalist weights export` wrote. UNet2DConditionModel, CLIPTextModel and
the tokenizer are read from it by their libraries; the sampler is written down once more below. From
the same noise both paint eight held-out captions. Prints the largest and the mean difference, in
levels of 255; with --out it writes both side by side, diffusers.png.
"""

import argparse
import pathlib
import time
from collections.abc import Sequence

import diffusers
import jax
import numpy as np
import torch
import transformers

import generalist
from generalist.diffusion import initial_noise
from generalist.diffusion.samplers import time_grid
from generalist.diffusion.unet_time import unet_time
from generalist.evaluation import panels
from generalist.files import write_atomically
from generalist.input_pipeline.scenes import ScenesSource
from generalist.models.generalist import TIMESTEP_SCALE
from generalist.pictures import encode_png
from generalist.pretrained.folders import local_folder

TASK = "text_to_image"
SHOWN = 8
SEED = 0


class Peer:
    """The published parts in their libraries' classes.

    Args:
      folder: with unet/, text_encoder/ and tokenizer/.
      length: tokens of a prompt.
      image_tokens: that were zero in training, in front of the prompt's.
    """

    def __init__(self, folder: pathlib.Path, length: int, image_tokens: int):
        self.unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval().float()
        self.text = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder").float()
        self.tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
        self.length = length
        self.image_tokens = image_tokens

    def context(self, captions: Sequence[str]) -> torch.Tensor:
        """Returns the condition tokens of captions."""
        ids = self.tokenizer(
            list(captions), padding="max_length", max_length=self.length, return_tensors="pt"
        )
        tokens = self.text(ids["input_ids"]).last_hidden_state
        return torch.nn.functional.pad(tokens, (0, 0, self.image_tokens, 0))

    def predict(self, x: np.ndarray, t: float, context: torch.Tensor) -> np.ndarray:
        """Returns the network's answer to pixels x (b, s, s, 3) at the UNet's timestep t."""
        # A picture as blocks of pixels, each a cell of many channels, and back.
        patch = round((self.unet.config.in_channels / 3) ** 0.5)
        b, side, _, _ = x.shape
        grid = side // patch
        blocks = x.reshape(b, grid, patch, grid, patch, 3).transpose(0, 2, 4, 5, 1, 3)
        cells = torch.tensor(blocks.reshape(b, -1, grid, grid))
        answer = self.unet(cells, torch.full((b,), t), context).sample.numpy()
        blocks = answer.reshape(b, patch, patch, 3, grid, grid).transpose(0, 4, 1, 5, 2, 3)
        return blocks.reshape(x.shape)


@torch.no_grad()
def paint(peer: Peer, recipe, captions: Sequence[str], noise: np.ndarray) -> np.ndarray:
    """Returns pictures in [-1, 1] by DDIM with guidance (arXiv 2010.02502, 2207.12598)."""
    context = peer.context(captions)
    times = np.append(time_grid(recipe.sampling.steps), np.float32(0))
    alpha, sigma = (np.asarray(x, np.float64) for x in recipe.schedule.alpha_sigma(times))
    told = TIMESTEP_SCALE * np.asarray(unet_time(recipe.unet_time, recipe.schedule, times))

    x = noise
    for now, following in zip(range(len(times) - 1), range(1, len(times)), strict=True):
        # What the network says is clean, beyond what it says without a caption.
        guided = peer.predict(x, float(told[now]), context)
        unguided = peer.predict(x, float(told[now]), torch.zeros_like(context))
        x0 = unguided + recipe.sampling.guidance * (guided - unguided)
        x0 = x0.clip(-1.0, 1.0)

        # The noise that is left, and less of it.
        eps = (x - alpha[now] * x0) / sigma[now]
        last = following == len(times) - 1
        x = x0 if last else np.float32(alpha[following] * x0 + sigma[following] * eps)
    return x


def main() -> None:
    """Paints with both and compares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="source", default="prior", help="an exported folder")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the picture")
    args = parser.parse_args()

    model = generalist.load(args.source)
    recipe = model.recipe
    settings = recipe.config.model
    side = model.target_size
    tokens = (settings.image_encoder.image_size // settings.image_encoder.patch) ** 2
    peer = Peer(local_folder(args.source), settings.text_encoder.length, tokens)
    source = ScenesSource(TASK, "val", SHOWN, side, recipe.config.seed)
    captions = [source[index]["prompt"] for index in range(SHOWN)]

    # Ours, and theirs from the same noise.
    began = time.monotonic()
    ours = [one.image for one in model.predict(task=TASK, prompt=captions, seed=SEED)]
    middle = time.monotonic()
    key, _ = jax.random.split(jax.random.key(SEED))
    noise = np.asarray(initial_noise(key, (SHOWN, side, side, 3), recipe.sampling.x_init))
    levels = np.rint((paint(peer, recipe, captions, noise) + 1.0) * 127.5)
    theirs = np.uint8(levels.clip(0, 255))

    difference = np.abs(np.float32(ours) - np.float32(theirs))
    print(
        f"{SHOWN} captions, {recipe.sampling.steps} steps, guidance {recipe.sampling.guidance:g}: "
        f"largest difference {difference.max():.0f} of 255 levels, mean {difference.mean():.4f}; "
        f"here {middle - began:.0f} s with compiling, there {time.monotonic() - middle:.0f} s"
    )
    if args.out:
        rows = []
        for pair in zip(ours, theirs, strict=True):
            rows.append([panels.enlarge(one, panels.SIDE) for one in pair])
        sheet = panels.compose(["painted here", "painted by diffusers"], rows, captions)
        write_atomically(args.out / "diffusers.png", encode_png(np.asarray(sheet)))


if __name__ == "__main__":
    main()
