"""Every field of a configuration, with its value for the full-size model and for the small one.

The other files of this folder begin with `get_config` and change a few fields. On the command line
any field can be changed: `--config.optimizer.lr=3e-4`.
"""

import os
from collections.abc import Collection, Mapping
from typing import NamedTuple

from ml_collections.config_dict import ConfigDict

from generalist.names import did_you_mean

SCENES = ("depth", "semantic", "instance", "denoise", "derain", "light")
# Words of a caption that a model of own captions reads.
CAPTION_LENGTH = 32
PAPER = ("depth", "semantic", "coco_semantic", "instance", "denoise", "derain", "light")


class Size(NamedTuple):
    """What the size of the small model's images and targets decides.

    The grids of the UNet and of the encoder are the same at every size. The last residual, which
    carries what is finer, gets fewer channels where it has more pixels, so that the time of a step
    grows little.
    """

    side: int  # of images and targets, pixels
    stem_patch: int
    refine: int  # channels of the last residual
    encoder_patch: int


# By the word behind a config file; the first is taken without one.
SIZES = {
    "64": Size(side=64, stem_patch=4, refine=64, encoder_patch=8),
    "128": Size(side=128, stem_patch=8, refine=32, encoder_patch=16),
}


class NoiseLevels(NamedTuple):
    """Which noise levels a recipe learns, and how its model is sampled."""

    p_pure_noise: float  # probability of t = 1; the other levels stay as their task has them
    x_init: str
    sampler: str
    steps: int


# By the word behind a config file; without one the recipe keeps its own.
NOISE_LEVELS = {
    # Pure noise alone, from zeros: the same network as a regressor, to measure diffusion against.
    "twin": NoiseLevels(p_pure_noise=1.0, x_init="zeros", sampler="one_step", steps=1),
    # Each level often enough to be asked there. Noise as training draws it, so that samples differ.
    "all_levels": NoiseLevels(p_pure_noise=0.3, x_init="gaussian", sampler="ddim", steps=4),
}


class Choice(NamedTuple):
    """What the words behind a config file choose.

    Attributes:
      data: "scenes" or "paper".
      small: the small model instead of the full-size one; the scenes always take the small one.
      scratch: do not start from the shipped weights.
      tiny: a model from scratch that is trained in seconds, see `tiny`.
      size: side of the small model's images and targets, a key of SIZES.
      levels: a key of NOISE_LEVELS; empty keeps the recipe's own.
      tasks: the tasks to train; empty takes all.
    """

    data: str
    small: bool
    scratch: bool
    tiny: bool
    size: str
    levels: str
    tasks: tuple[str, ...]


def parse(arg: str) -> Choice:
    """Reads the words behind `multitask.py:`, such as "paper,small,depth".

    Without "scenes" or "paper", a data directory in GENERALIST_DATA_DIR decides (main.py puts
    `--config.data_dir` there). Raises ValueError for an unknown word.
    """
    words = [word for word in arg.split(",") if word]
    data_words = [word for word in words if word in ("scenes", "paper")]
    if data_words:
        data = data_words[0]
    else:
        data = "paper" if os.environ.get("GENERALIST_DATA_DIR") else "scenes"

    switches = ("small", "scratch", "tiny", *SIZES, *NOISE_LEVELS)
    tasks = tuple(word for word in words if word not in (*data_words, *switches))
    known_tasks = (*(SCENES if data == "scenes" else PAPER), "panoptic")
    if len(data_words) > 1 or set(tasks) - set(known_tasks):
        hints = _hints(tasks, (*known_tasks, *switches))
        raise ValueError(
            f"config argument {arg!r}:{hints} choose 'scenes' or 'paper', and optionally 'small', "
            f"'scratch', 'tiny', '64' or '128', 'twin' or 'all_levels' and the tasks to train, by "
            f"default all of them: {', '.join(known_tasks)}"
        )

    sizes = [word for word in words if word in SIZES]
    is_small = (data == "scenes" or "small" in words) and "tiny" not in words
    if len(sizes) > 1 or (sizes and not is_small):
        raise ValueError(
            f"config argument {arg!r}: '64' or '128' is the size of the small model, which is "
            "'scenes' or 'paper,small': give one of them, and not 'tiny'"
        )
    if sizes == ["128"] and "scratch" not in words:
        raise ValueError(
            f"config argument {arg!r}: the shipped weights paint 64x64: add 'scratch', or leave "
            "'128' out"
        )

    levels = [word for word in words if word in NOISE_LEVELS]
    if len(levels) > 1:
        raise ValueError(
            f"config argument {arg!r}: 'twin' learns pure noise alone, 'all_levels' every noise "
            "level: give one of them"
        )
    return Choice(
        data=data,
        small="small" in words,
        scratch="scratch" in words,
        tiny="tiny" in words,
        size=sizes[0] if sizes else next(iter(SIZES)),
        levels=levels[0] if levels else "",
        tasks=tasks,
    )


def _hints(words: Collection[str], known: Collection[str]) -> str:
    return "".join(did_you_mean(word, known) for word in words if word not in known)


def choose(arg: str, variants: Collection[str]) -> tuple[str, str]:
    """Splits the text behind an ablation's `.py:` into its variant and the rest for `get_config`.

    Raises ValueError for an unknown variant.
    """
    name, _, rest = arg.partition(",")
    if name not in variants:
        raise ValueError(f"unknown variant {name!r}: choose one of {', '.join(variants)}")
    return name, rest


def full_size() -> ConfigDict:
    """Returns the full-size recipe on the paper's six data sets at 128x128.

    The model is not the paper's own, which is configs/paper.py: beside cross-attention it also sees
    the image by concatenation and by aligned features, on 2x2 patches.
    """
    c = ConfigDict()
    c.seed = 0
    # 12.8 million examples. In epochs: LOL 1,400, ADE20K 133, NYU 56, Rain13K 49, COCO 28 (classes)
    # and 17 (instances), SIDD 21.
    c.total_steps = 50_000
    c.batch_size = 256  # of all devices together
    c.data_dir = os.environ.get("GENERALIST_DATA_DIR", "")  # local path or gs://...

    c.tasks = ConfigDict()
    # The tasks that the names below stand for: "paper", "scenes", or the definitions of your own
    # tasks (docs/own_data.md).
    c.tasks.set = "paper"
    # Relative frequency of each task among the samples: Painter's mixture without its pose task.
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
    # Those of the scenes: small residuals have small gradients, so restoration counts more. Not
    # measured at full size.
    c.tasks.loss_weights = ConfigDict(
        {
            "depth": 5.0,
            "semantic": 1.0,
            "coco_semantic": 1.0,
            "instance": 1.0,
            "denoise": 8.0,
            "derain": 8.0,
            "light": 3.0,
        }
    )
    # Masks can be read through heavy noise, photographs cannot: tasks with flat colors train closer
    # to pure noise.
    c.tasks.timesteps = ConfigDict(
        {
            "depth": timesteps(mean=0.5, p_pure_noise=0.5),
            "semantic": timesteps(mean=1.0, p_pure_noise=0.5),
            "coco_semantic": timesteps(mean=1.0, p_pure_noise=0.5),
            "instance": timesteps(mean=1.0, p_pure_noise=0.5),
            "denoise": timesteps(mean=0.0, p_pure_noise=0.5),
            "derain": timesteps(mean=0.0, p_pure_noise=0.5),
            "light": timesteps(mean=0.0, p_pure_noise=0.5),
        }
    )

    c.data = ConfigDict()
    c.data.source = "paper"  # "paper" or "folder" (own data), both in data_dir; "scenes": built in
    c.data.image_size = 256  # side of the image that the encoder sees
    c.data.threads = 16
    # Processes that read, each with `threads` threads. 0: the threads of the training process,
    # mostly as fast.
    c.data.workers = 0
    c.data.prefetch = 2  # batches read ahead, by each worker
    # "raise", or "skip": leave damaged files out, name each, count them at the end of the run.
    c.data.on_error = "raise"
    c.data.scenes_train = 0  # number of scenes, for source "scenes"
    c.data.scenes_size = 64
    c.data.scenes_seed = -1  # with one, runs of all seeds see the same scenes; -1: the run's own
    # Of `text_to_image`: "own", or "others": each picture gets another's, and no caption is true.
    c.data.scenes_captions = "own"
    c.data.augment = ConfigDict()
    c.data.augment.tasks = PAPER  # the other tasks are not augmented
    c.data.augment.scale = (0.3, 1.0)  # area of the random window, as a fraction of the image
    c.data.augment.ratio = (3 / 4, 4 / 3)  # width / height of the window
    # Probability of a window of the target's size in stored pixels, for restoration that is
    # predicted in tiles of that size.
    c.data.augment.native = 0.5
    c.data.augment.flip = 0.5  # probability of a mirrored image
    # Largest change of the image's colors, and its probability. Never of a restoration task, whose
    # colors are its target.
    c.data.augment.jitter = ConfigDict(
        {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
    )
    c.data.augment.jitter_probability = 0.8

    c.model = _full_size_model()

    c.diffusion = ConfigDict()
    # Shifted to the target's resolution; or "scaled_linear", "stable_diffusion".
    c.diffusion.schedule = "cosine"
    # The time that the UNet is told: "linear" (t), "equal_logsnr" (where Stable Diffusion has as
    # much noise), "clean" (0, the image's), or "auto": the second for a published UNet, else the
    # first.
    c.diffusion.unet_time = "auto"
    c.diffusion.prediction_type = "x0"  # or "v", "eps"
    c.diffusion.loss_weight = "x0"  # or "v", "simple", "min_snr", "sigmoid"
    c.diffusion.x_init = "zeros"  # x_t at t = 1: "zeros" (the mean of the noise) or "gaussian"
    c.diffusion.drop_image = 0.0  # probability of hiding the image, for guidance
    c.diffusion.drop_text = 0.0  # probability of hiding the prompt
    # Cross-entropy of the soft color decode, for segmentation by a palette; 0 is off.
    c.diffusion.prototype_weight = 0.0
    c.diffusion.prototype_temperature = 0.12
    c.diffusion.sampler = "one_step"  # or "ddim", "dpmpp_2m"
    c.diffusion.steps = 1
    c.diffusion.eta = 0.0
    c.diffusion.guidance = 1.0  # 1 is off
    # That `predict` and evaluations draw of an image and combine: the mean of quantities, the vote
    # of classes and segments. More than one need a sampler that draws noise.
    c.diffusion.samples = 1

    c.optimizer = ConfigDict()
    c.optimizer.lr = 1e-4
    c.optimizer.schedule = "cosine"  # or "constant", "linear"
    c.optimizer.warmup_steps = 1_000
    c.optimizer.decay_fraction = 1.0  # fraction of the run that the decay takes
    c.optimizer.b1 = 0.9
    c.optimizer.b2 = 0.99
    c.optimizer.mu_dtype = "float32"  # first moment; "bfloat16" saves 2 bytes a parameter
    c.optimizer.muon = ()  # path regexes of kernels that Muon updates; AdamW updates the others
    c.optimizer.clip = 1.0
    c.optimizer.weight_decay = 0.01
    c.optimizer.weight_decay_on = (r"kernel$",)  # path regexes
    # The first match wins. Not of an encoder that starts from nothing: that learns at full rate.
    c.optimizer.lr_multipliers = ((r"^image_encoder\.", 0.1),)
    c.optimizer.frozen = (r"^text_encoder\.",)  # add r"^image_encoder\." to freeze it too
    c.optimizer.ema = 0.9999
    c.optimizer.accum_steps = 1  # microbatches that a batch is processed in, to save memory

    c.sharding = ConfigDict()
    c.sharding.fsdp = 1  # devices that share parameters, EMA and optimizer state
    c.sharding.min_size = 2**16  # elements that an array must have to be split
    # Rows of (path regex, axis to split over fsdp, or None to keep the array whole); the first
    # match wins. Without a match: the largest axis that fsdp divides.
    c.sharding.rules = ()
    # Devices that a CPU is split into, where there is no accelerator. 0: one a core.
    c.sharding.cpu_devices = 0

    c.checkpoint = ConfigDict()
    # By either, and at evaluations, at the end and on SIGTERM; 0: not by this.
    c.checkpoint.every_minutes = 20.0
    c.checkpoint.every_steps = 0
    c.checkpoint.keep = 2

    c.eval = ConfigDict()
    c.eval.every_steps = 10_000
    c.eval.batch_size = 64
    # During training: a slice of the training data that is never trained on, examples a task.
    c.eval.split = "held_out"
    c.eval.examples = 200
    # Measure what is measured at the end before the first step, too.
    c.eval.before = False
    # At the end: the official split, which no earlier figure has seen; 0: all its examples.
    c.eval.final_split = "val"
    c.eval.final_examples = 0
    c.eval.panels = 4
    c.eval.tasks = (*PAPER, "panoptic")  # of these, the ones that are trained

    c.log = ConfigDict()
    c.log.every_steps = 50
    return c


def timesteps(mean: float, p_pure_noise: float, std: float = 1.0) -> ConfigDict:
    """Returns a task's distribution of t: logit-normal, or with `p_pure_noise` exactly t = 1."""
    return ConfigDict({"mean": mean, "std": std, "p_pure_noise": p_pure_noise})


def _full_size_model() -> ConfigDict:
    """Stable Diffusion's UNet on 2x2 patches, a vision transformer, a text encoder.

    The parts are described by their classes: `generalist.models.GeneralistModel`, `UNet`,
    `VisionTransformer`, `TextEncoder`.
    """
    m = ConfigDict()
    # What to start from: "" (nothing), a model folder or its name, a Stable Diffusion folder, or
    # "unet=FOLDER,image_encoder=FOLDER,text_encoder=FOLDER"; with "autoencoder=FOLDER" the model
    # diffuses latents. The sizes of published parts, the prompts' ids and the image's normalization
    # below then follow from the folders.
    m.init_from = ""
    m.adapt = ConfigDict()
    # How conv_in and conv_out get another number of channels: "cycle", "mean", "fresh"
    # (pretrained/parts.py).
    m.adapt.conv = "cycle"
    # The kernels of the concatenated image: "zero", or those of x_t, "copied" or "halved".
    m.adapt.image = "zero"
    # Path regexes of parameters that no checkpoint has.
    m.adapt.new = (r"^unet\.(position|pooled_text|aligned|refine)\.",)
    m.dtype = "bfloat16"  # of the computation; parameters are float32
    # What the backward pass computes again, to save memory: "none", "products" (all but
    # convolutions and dense layers) or "blocks" (all).
    m.remat = "none"
    m.target_size = 128
    m.concatenate_image = (
        True  # append the image to x_t; False: cross-attention alone, as the paper
    )
    m.aligned_features = True  # add the encoder's token grid at every level
    m.pooled_text = False  # add the mean prompt token to the time embedding
    # Stable Diffusion's UNet, variant A. C: attention_levels=(False, True, True, False).
    # W: window=16. E: patch=2 and refine=64.
    m.unet = ConfigDict(
        {
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
    # The normalization that the image encoder was trained with.
    m.image_mean = (0.5, 0.5, 0.5)
    m.image_std = (0.5, 0.5, 0.5)
    # `length`: words of a prompt. Longer captions of examples are cut.
    m.text_encoder = ConfigDict({"dim": 768, "depth": 12, "heads": 12, "length": 8})
    m.prompt_ids = ConfigDict()  # of a published tokenizer, by task; empty: words are hashed
    m.autoencoder = ConfigDict()
    return m


def small(c: ConfigDict, scratch: bool = False, size: str = "64") -> ConfigDict:
    """Turns `c` into a small model, for two CPU cores and twelve minutes.

    It starts from the shipped weights, or with `scratch` from nothing. `size` is a key of SIZES.
    """
    chosen = SIZES[size]
    c.total_steps = 1100 if scratch else 480
    c.batch_size = 16
    c.tasks.timesteps = ConfigDict(
        {name: timesteps(mean=0.0, p_pure_noise=0.9) for name in c.tasks.weights}
    )
    c.data.image_size = chosen.side
    c.data.scenes_size = chosen.side
    c.data.threads = 2

    c.model.init_from = "" if scratch else "scenes"  # the weights shipped with the package
    c.model.dtype = "float32"
    c.model.target_size = chosen.side
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
            "patch": chosen.stem_patch,
            "groups": 16,
            "position": True,
            "refine": chosen.refine,
        }
    )
    c.model.image_encoder = ConfigDict(
        {
            "image_size": chosen.side,
            "patch": chosen.encoder_patch,
            "dim": 128,
            "depth": 2,
            "heads": 4,
        }
    )
    c.model.text_encoder.update({"dim": 64, "depth": 2, "heads": 2})

    c.optimizer.lr = 2e-3 if scratch else 2e-4
    c.optimizer.warmup_steps = 50
    if scratch:
        # Far more progress a step than AdamW, for more arithmetic. A short finetuning takes the
        # cheaper one.
        c.optimizer.muon = (
            r"^unet\.(down_blocks|mid_block|up_blocks|aligned|pooled_text|refine\.convs)"
            r"\..*kernel$",
            r"^(image_encoder\.layers|image_projection)\..*kernel$",
        )
    c.optimizer.lr_multipliers = ()
    c.optimizer.ema = 0.99

    c.checkpoint.every_minutes = 0.0
    c.checkpoint.every_steps = 200
    c.eval.every_steps = 0  # only at the end
    c.eval.batch_size = 8
    c.eval.examples = 64
    c.eval.final_examples = 200
    c.log.every_steps = 20
    return c


def tiny(c: ConfigDict) -> ConfigDict:
    """Turns a small config from scratch into a run of about a minute; it learns nothing of use.

    It has every part of the small model, and trains, evaluates and reports: a first look at what a
    run writes, and what the tests train.
    """
    c.total_steps = 20
    c.batch_size = 4
    c.data.image_size = 32
    c.data.scenes_size = 32
    c.data.scenes_train = 64
    c.data.threads = 1
    c.data.prefetch = 1

    # Most of the time is compiling, which grows with the number of arrays, not with their sizes.
    c.model.target_size = 32
    c.model.unet.channels = (16,)
    c.model.unet.attention_levels = (False,)  # the middle block attends
    c.model.unet.context_dim = 32
    c.model.unet.heads = 2
    c.model.unet.groups = 8
    c.model.image_encoder.update({"image_size": 32, "dim": 16, "depth": 1, "heads": 2})
    c.model.text_encoder.update({"dim": 16, "depth": 1, "heads": 2})

    c.optimizer.warmup_steps = 2
    c.optimizer.muon = ()
    c.checkpoint.every_steps = 10
    c.eval.batch_size = 4
    c.eval.examples = 4
    c.eval.final_examples = 4
    c.eval.panels = 1
    c.log.every_steps = 1
    return c


def scenes(scratch: bool = False, size: str = "64") -> ConfigDict:
    """Returns the small model on the built-in scenes."""
    c = full_size()
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
    c.eval.tasks = (*SCENES, "panoptic")
    return small(c, scratch, size)


def learn_levels(c: ConfigDict, levels: str) -> ConfigDict:
    """Makes `c` learn other noise levels; `levels` is a key of NOISE_LEVELS."""
    chosen = NOISE_LEVELS[levels]
    for distribution in c.tasks.timesteps.values():
        distribution.p_pure_noise = chosen.p_pure_noise
    c.diffusion.x_init = chosen.x_init
    c.diffusion.sampler = chosen.sampler
    c.diffusion.steps = chosen.steps
    return c


def own(definitions: Mapping[str, Mapping]) -> ConfigDict:
    """Returns the full-size recipe on own data; `small` makes it small.

    `definitions` describes each task (docs/own_data.md); all have the same weight.
    """
    c = full_size()
    with c.ignore_type():
        c.tasks.set = ConfigDict(definitions)
    c.tasks.weights = ConfigDict(dict.fromkeys(definitions, 1.0))
    c.tasks.loss_weights = ConfigDict(dict.fromkeys(definitions, 1.0))
    c.tasks.timesteps = ConfigDict(
        {name: timesteps(mean=0.0, p_pure_noise=0.5) for name in definitions}
    )
    for definition in definitions.values():
        if definition.get("captions") or definition.get("kind") == "text_to_image":
            c.model.text_encoder.length = CAPTION_LENGTH
    c.data.source = "folder"
    c.data.augment.tasks = tuple(definitions)
    c.eval.split = "val"  # what the user holds out, measured all along
    c.eval.tasks = tuple(definitions)
    return c


def text_to_image(folder: str = "", size: str = "64") -> ConfigDict:
    """Returns the small model as a text-to-image model: pictures from captions, no image seen.

    Args:
      folder: of own images with captions; "" takes the built-in scenes.
      size: a key of SIZES.
    """
    name = "text_to_image"
    if folder:
        c = own({name: {"kind": name}})
        c.data_dir = folder
    else:
        c = only(scenes(scratch=True), [])
        c.tasks.weights = ConfigDict({name: 1.0})
        c.tasks.loss_weights = ConfigDict({name: 1.0})
        c.eval.tasks = (name,)
        c.model.text_encoder.length = CAPTION_LENGTH

    c = small(c, scratch=True, size=size)
    c.total_steps = 20_000
    c.batch_size = 64
    c.data.augment.tasks = ()  # a mirrored picture would belie "on the left"

    # All noise levels, from noise to pictures: there is no one answer to regress.
    c.tasks.timesteps = ConfigDict({name: timesteps(mean=0.0, p_pure_noise=0.02)})
    c.diffusion.x_init = "gaussian"
    c.diffusion.loss_weight = "v"
    c.diffusion.drop_text = 0.1
    c.diffusion.prototype_weight = 0.0
    c.diffusion.sampler = "ddim"
    c.diffusion.steps = 50
    c.diffusion.guidance = 3.0

    # The published UNet's own form: no more than that is read by a generalist that starts from it.
    c.model.concatenate_image = False
    c.model.aligned_features = False
    c.model.pooled_text = False
    c.model.unet.position = False
    c.model.unet.refine = 0
    c.diffusion.unet_time = "equal_logsnr"
    c.optimizer.frozen = (r"^text_encoder\.", r"^image_(encoder|projection)\.")
    c.optimizer.ema = 0.999
    c.checkpoint.every_minutes = 20.0
    c.checkpoint.every_steps = 0
    return c


def only(c: ConfigDict, names: Collection[str]) -> ConfigDict:
    """Keeps the tasks `names` of `c`.

    "panoptic" stands for the two tasks that it is merged from. It is evaluated where both are
    trained.
    """
    merged = {"semantic" if c.tasks.set == "scenes" else "coco_semantic", "instance"}
    kept = set(names) - {"panoptic"}
    if "panoptic" in names:
        kept |= merged

    for group in ("weights", "loss_weights", "timesteps"):
        values = c.tasks[group].to_dict()
        c.tasks[group] = ConfigDict({name: values[name] for name in values if name in kept})

    evaluated = kept | {"panoptic"} if merged <= kept else kept
    c.eval.tasks = tuple(name for name in c.eval.tasks if name in evaluated)
    return c


def get_config(arg: str = "") -> ConfigDict:
    """Returns the paper's or the scenes' recipe, small or not, with all tasks or some."""
    choice = parse(arg)
    scratch = choice.scratch or choice.tiny
    if choice.data == "scenes":
        c = scenes(scratch, choice.size)
    elif choice.small or choice.tiny:
        c = small(full_size(), scratch, choice.size)
    else:
        c = full_size()

    if choice.tiny:
        c = tiny(c)
    if choice.levels:
        c = learn_levels(c, choice.levels)
    return only(c, choice.tasks) if choice.tasks else c
