"""What every configuration shares: every field there is, with the values of the paper's full-size run, and the small run on the scenes."""

import difflib
import os

import ml_collections
from ml_collections.config_dict import ConfigDict

SCENES = ("depth", "semantic", "instance", "denoise", "derain", "light")
PAPER = ("depth", "semantic", "coco_semantic", "instance", "denoise", "derain", "light")


def parse(arg: str) -> tuple[str, set[str], list[str]]:
    """The text behind `multitask.py:` -> ("scenes" or "paper", of "small" and "scratch" those given, the names of tasks).

    Without "scenes" or "paper", a data directory in GENERALIST_DATA_DIR decides (main.py puts `--config.data_dir` there).
    """
    words = [word for word in arg.split(",") if word]
    data = [word for word in words if word in ("scenes", "paper")]
    name = data[0] if data else "paper" if os.environ.get("GENERALIST_DATA_DIR") else "scenes"
    named = [word for word in words if word not in (*data, "small", "scratch")]
    known = {"scenes": SCENES, "paper": PAPER}[name] + ("panoptic",)
    if len(data) > 1 or set(named) - set(known):
        raise ValueError(
            f"config argument {arg!r}:{_closest(named, known)} choose 'scenes' or 'paper', and optionally 'small', 'scratch' and "
            f"the tasks to train, without which it is all of them: {', '.join(known)}"
        )
    return name, set(words) & {"small", "scratch"}, named


def _closest(words, known) -> str:
    close = [difflib.get_close_matches(word, known, 1) for word in words if word not in known]
    return "".join(f" Did you mean {found[0]!r}?" for found in close if found)


def choose(arg: str, variants) -> tuple[str, str]:
    """The text behind an ablation's `.py:` -> (the variant, the rest for `get_config`). ValueError for an unknown variant."""
    name, _, rest = arg.partition(",")
    if name not in variants:
        raise ValueError(f"unknown variant {name!r}: choose one of {', '.join(variants)}")
    return name, rest


def paper() -> ConfigDict:
    """The full-size model on the paper's six data sets at 128x128."""
    c = ConfigDict()
    c.seed = 0
    c.total_steps = 200_000
    c.batch_size = 256  # of all devices together
    c.data_dir = os.environ.get("GENERALIST_DATA_DIR", "")  # local path or gs://...

    c.tasks = ConfigDict()
    c.tasks.set = (
        "paper"  # the codecs: "paper", "scenes", or the definitions of own tasks (docs/own_data.md)
    )
    # Share of the samples (relative): Painter's mixture without its pose task.
    # A task of weight 0 is neither trained nor evaluated, and its data are not needed.
    c.tasks.weights = ConfigDict(
        {
            "depth": 0.10,
            "semantic": 0.20,
            "coco_semantic": 0.25,
            "instance": 0.15,
            "denoise": 0.15,
            "derain": 0.05,
            "light": 0.05,
        }
    )
    c.tasks.loss_weights = ConfigDict({name: 1.0 for name in PAPER})
    # Logit-normal mean and deviation of t, and the share of samples at t = 1. Masks can be read through heavy
    # noise, photographs cannot: tasks with flat colours train closer to pure noise.
    c.tasks.timesteps = ConfigDict(
        {
            "depth": (0.5, 1.0, 0.5),
            "semantic": (1.0, 1.0, 0.5),
            "coco_semantic": (1.0, 1.0, 0.5),
            "instance": (1.0, 1.0, 0.5),
            "denoise": (0.0, 1.0, 0.5),
            "derain": (0.0, 1.0, 0.5),
            "light": (0.0, 1.0, 0.5),
        }
    )

    c.data = ConfigDict()
    c.data.source = (
        "paper"  # "paper" or "folder" (own data), both in data_dir, or "scenes" (built in)
    )
    c.data.image_size = 256  # side of the image the encoder sees
    c.data.threads = 16
    c.data.workers = 0  # processes that read, each with so many threads; 0: the threads of the training process, mostly as fast
    c.data.prefetch = 8  # batches, of each worker
    c.data.on_error = "raise"  # or "skip": leave damaged files out, name each, and count them at the end of the run
    c.data.scenes_train = 0  # number of scenes, for source "scenes"
    c.data.scenes_size = 64
    # Random windows (area share, width / height) and mirroring of image and label; brightness, contrast, saturation and hue of the
    # image, never of a restoration task's. All of it for these tasks only.
    c.data.augment = ConfigDict(
        {
            "tasks": PAPER,
            "scale": (0.3, 1.0),
            "ratio": (3 / 4, 4 / 3),
            "flip": 0.5,
            "jitter": (0.4, 0.4, 0.2, 0.1),
            "jitter_share": 0.8,
        }
    )

    c.model = _model()

    c.diffusion = ConfigDict()
    c.diffusion.schedule = "cosine"  # shifted to the target's resolution; or "scaled_linear"
    c.diffusion.prediction = "x0"  # or "v", "eps"
    c.diffusion.loss_weight = "x0"  # or "simple", "min_snr", "sigmoid"
    c.diffusion.start = "zeros"  # what t = 1 looks like: "zeros" (its mean) or "noise"
    c.diffusion.drop_image = 0.0  # share of samples without the image (for guidance)
    c.diffusion.drop_text = 0.0
    c.diffusion.prototype_weight = (
        0.0  # cross-entropy of the soft colour decode, segmentation by palette only
    )
    c.diffusion.prototype_temperature = 0.12
    c.diffusion.sampler = "one_step"  # or "ddim", "dpmpp_2m"
    c.diffusion.steps = 1
    c.diffusion.eta = 0.0
    c.diffusion.guidance = 1.0  # 1 is off

    c.optimizer = ConfigDict()
    c.optimizer.lr = 1e-4
    c.optimizer.schedule = "cosine"  # "constant", "linear", "cosine"
    c.optimizer.warmup_steps = 1_000
    c.optimizer.decay_fraction = 1.0  # share of the run the decay takes
    c.optimizer.b1 = 0.9
    c.optimizer.b2 = 0.99
    c.optimizer.mu_dtype = "float32"  # of the first moment; "bfloat16" saves 2 bytes a parameter
    c.optimizer.muon = ()  # path regexes of kernels that Muon updates; AdamW the others
    c.optimizer.clip = 1.0
    c.optimizer.weight_decay = 0.01
    c.optimizer.weight_decay_on = (r"kernel$",)  # path regexes
    c.optimizer.lr_multipliers = ((r"^image_encoder\.", 0.1),)  # first match wins
    c.optimizer.frozen = (r"^text_encoder\.",)  # add r"^image_encoder\." to freeze it too
    c.optimizer.ema = 0.9999
    c.optimizer.accumulate = 1  # parts a batch is processed in

    c.sharding = ConfigDict()
    c.sharding.fsdp = 1  # devices that share parameters, EMA and optimizer state
    c.sharding.min_size = 2**16  # elements an array must have to be split
    # (path regex, axis to split over fsdp, or None to keep it whole), first match wins; without: the largest axis that fsdp divides.
    c.sharding.rules = ()
    c.sharding.cpu_devices = (
        0  # without an accelerator: devices the CPU is split into; 0: one a core
    )

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = 1_000
    c.checkpoint.keep = 2

    c.eval = ConfigDict()
    c.eval.every_steps = 10_000
    c.eval.batch_size = 64
    c.eval.examples = 200  # held-out examples a task in the loop
    c.eval.final_examples = 0  # at the end; 0: all
    c.eval.panels = 4
    c.eval.split = "val"
    c.eval.tasks = PAPER + ("panoptic",)  # of them, those that are trained

    c.log = ConfigDict()
    c.log.every_steps = 50
    return c


def _model() -> ConfigDict:
    """The full-size model: Stable Diffusion's UNet on 2x2 patches, a vision transformer, a text encoder."""
    m = ConfigDict()
    # What to start from: "" (nothing), a model folder or its name, a Stable Diffusion folder, or parts of it and of others:
    # "unet=FOLDER,image_encoder=FOLDER,text_encoder=FOLDER"; with "autoencoder=FOLDER" the model diffuses latents.
    # The sizes of published parts, the prompts' ids and the image's normalisation below then follow from the folders.
    m.init_from = ""
    m.adapt = ConfigDict(
        {
            "conv": "cycle",  # conv_in and conv_out of another number of channels: "cycle", "mean", "fresh"; see pretrained/parts.py
            "new": (r"^unet\.(position|pooled_text|aligned|refine)\.",),
        }
    )  # path regexes: what no checkpoint has
    m.dtype = "bfloat16"  # computation; parameters are float32
    # What the backward pass computes again, to save memory: "none", "products" (all but convolutions and dense layers) or "blocks" (all).
    m.remat = "none"
    m.target_size = 128
    m.concatenate_image = (
        True  # append the image to x_t; False is the paper's cross-attention alone
    )
    m.aligned_features = True  # add the encoder's token grid at every level
    m.pooled_text = False  # add the mean prompt token to the time embedding
    m.unet = ConfigDict(
        {  # Stable Diffusion's; variant C: (False, True, True, False), W: window=16, E: patch=2 and refine=64
            "channels": (320, 640, 1280, 1280),
            "layers_per_block": 2,
            "attention_levels": (True, True, True, False),
            "context_dim": 768,
            "heads": 8,
            "head_dim": 64,
            "window": 0,
            "patch": 2,
            "groups": 32,
            "position": False,
            "refine": 64,
        }
    )
    m.image_encoder = ConfigDict(
        {"image_size": 256, "patch": 16, "dim": 768, "depth": 12, "heads": 12}
    )
    m.image_mean = m.image_std = (0.5, 0.5, 0.5)  # what the image encoder was trained to see
    m.text_encoder = ConfigDict({"dim": 768, "depth": 12, "heads": 12})
    m.prompt_ids = ConfigDict()  # of a published tokenizer, by task; none: words are hashed
    m.autoencoder = ConfigDict()
    return m


def small(c: ConfigDict, scratch: bool = False) -> ConfigDict:
    """Turns `c` into a small model at 64x64, for two CPU cores and twelve minutes; it starts from the shipped weights or from scratch."""
    c.total_steps = 1100 if scratch else 480
    c.batch_size = 16
    c.tasks.timesteps = ConfigDict({name: (0.0, 1.0, 0.9) for name in c.tasks.weights})
    c.data.image_size = 64
    c.data.threads = 2

    c.model.init_from = "" if scratch else "scenes"  # the weights shipped with the package
    c.model.dtype = "float32"
    c.model.target_size = 64
    c.model.pooled_text = True
    c.model.unet = ConfigDict(
        {
            "channels": (64, 128),
            "layers_per_block": 1,
            "attention_levels": (False, True),
            "context_dim": 128,
            "heads": 4,
            "head_dim": 32,
            "window": 0,
            "patch": 4,
            "groups": 16,
            "position": True,
            "refine": 64,
        }
    )
    c.model.image_encoder = ConfigDict(
        {"image_size": 64, "patch": 8, "dim": 128, "depth": 2, "heads": 4}
    )
    c.model.text_encoder = ConfigDict({"dim": 64, "depth": 2, "heads": 2})

    c.optimizer.lr = 2e-3 if scratch else 2e-4
    c.optimizer.warmup_steps = 50
    if scratch:  # far more progress a step than AdamW, for more arithmetic; a short finetuning takes the cheaper one
        c.optimizer.muon = (
            r"^unet\.(down_blocks|mid_block|up_blocks|aligned|pooled_text|refine\.convs)\..*kernel$",
            r"^(image_encoder\.layers|image_projection)\..*kernel$",
        )
    c.optimizer.lr_multipliers = ()
    c.optimizer.ema = 0.99

    c.checkpoint.every_steps = 200
    c.eval.every_steps = 0  # only at the end
    c.eval.batch_size = 8
    c.eval.examples = 64
    c.eval.final_examples = 200
    c.log.every_steps = 20
    return c


def scenes(scratch: bool = False) -> ConfigDict:
    """The small model on the built-in scenes."""
    c = paper()
    c.data_dir = ""

    c.tasks.set = "scenes"
    c.tasks.weights = ConfigDict(
        {
            "depth": 1.75,
            "semantic": 1.25,
            "instance": 0.75,
            "denoise": 1.0,
            "derain": 0.85,
            "light": 0.7,
        }
    )
    c.tasks.loss_weights = ConfigDict(
        {
            "depth": 5.0,
            "semantic": 1.0,
            "instance": 1.0,
            "denoise": 8.0,
            "derain": 8.0,
            "light": 3.0,
        }
    )

    c.data.source = "scenes"
    c.data.scenes_train = 1_000_000  # rendered on demand: practically never the same twice
    c.data.augment.tasks = ()

    c.diffusion.prototype_weight = 0.2
    c.eval.tasks = SCENES + ("panoptic",)
    return small(c, scratch)


def own(definitions: dict) -> ConfigDict:
    """The recipe on own data: `definitions` describes each task (docs/own_data.md), all learn alike. `small` makes it small."""
    c = paper()
    with c.ignore_type():
        c.tasks.set = ConfigDict(definitions)
    c.tasks.weights = ConfigDict(dict.fromkeys(definitions, 1.0))
    c.tasks.loss_weights = ConfigDict(dict.fromkeys(definitions, 1.0))
    c.tasks.timesteps = ConfigDict(dict.fromkeys(definitions, (0.0, 1.0, 0.5)))
    c.data.source = "folder"
    c.data.augment.tasks = tuple(definitions)
    c.eval.tasks = tuple(definitions)
    return c


def only(c: ConfigDict, names) -> ConfigDict:
    """Keeps of `c` the tasks `names`; "panoptic" stands for the two that it is merged from, and is evaluated where both are trained."""
    merged = {"semantic" if c.tasks.set == "scenes" else "coco_semantic", "instance"}
    kept = {part for name in names for part in (merged if name == "panoptic" else {name})}
    for group in ("weights", "loss_weights", "timesteps"):
        c.tasks[group] = ConfigDict(
            {name: value for name, value in c.tasks[group].to_dict().items() if name in kept}
        )
    evaluated = kept | ({"panoptic"} if merged <= kept else set())
    c.eval.tasks = tuple(name for name in c.eval.tasks if name in evaluated)
    return c


def get_config(arg: str = "") -> ConfigDict:
    """`paper` or `scenes`, small or not, with all tasks or some, as `parse` decides."""
    name, size, tasks = parse(arg)
    scratch = "scratch" in size
    c = (
        scenes(scratch)
        if name == "scenes"
        else small(paper(), scratch)
        if "small" in size
        else paper()
    )
    return only(c, tasks) if tasks else c
