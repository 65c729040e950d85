"""The model of arXiv 2407.00503, as far as it is known.

    python main.py --config=configs/paper.py --config.data_dir=/data \
        --config.model.init_from=unet=SD,text_encoder=SD,image_encoder=ENCODER

SD is a folder of Stable Diffusion 1.x or 2.x, ENCODER one of CLIP, SigLIP or DINOv2
(docs/weights.md). Behind the file stands `frozen`, which leaves the image encoder as it is, or
tasks, `twin` or `all_levels`, as behind multitask.py: `paper.py:depth`, `paper.py:frozen,twin`.

Stable Diffusion's UNet in its own topology works on the pixels of 128x128 targets: no patches, no
refinement, and the image reaches it by cross-attention on the image encoder's tokens alone. It has
859.5 million parameters and takes 14.3 TFLOP an image and step. Its parameters and their average,
AdamW's state, gradients and a copy in bfloat16 take 17.6 GiB, activations with `remat="blocks"`
about 0.55 GiB an image (computed, not measured): 64 images fit a device of 80 GiB, and a batch of
256 four of them, or one with `--config.optimizer.accum_steps=4`.

What the paper states: the six prompts, the data sets, 128x128 pixels, RGB targets, diffusion in
pixel space from a pre-trained text-to-image model, an image encoder that is tuned and a text
encoder that is not. What it leaves open, or could not be retrieved, is this package's choice: which
encoder, the noise schedule, the sampler and its steps, what the UNet predicts, learning rate and
length, and the mixture of tasks, which is Painter's. A summary of the paper says that the image
encoder is frozen; hence the switch.
"""

from ml_collections import ConfigDict

from generalist.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; every field is described in common.py."""
    words = [word for word in arg.split(",") if word]
    frozen = "frozen" in words
    tasks = [word for word in words if word != "frozen"]
    c = common.get_config(",".join(["paper", *tasks]))

    c.model.concatenate_image = False
    c.model.aligned_features = False
    c.model.unet.patch = 1
    c.model.unet.refine = 0
    c.model.remat = "blocks"
    if frozen:
        c.optimizer.frozen = (*c.optimizer.frozen, r"^image_encoder\.")
        c.optimizer.lr_multipliers = ()
    return c
