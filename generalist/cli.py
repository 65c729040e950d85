"""The command `generalist`: predict, evaluate, ceiling, export, weights, data, report, doctor. Also `python -m generalist.cli`."""

import argparse
import collections
import functools
import importlib.metadata
import os
import pathlib
import platform
import shutil
import sys
import time
from collections.abc import Sequence

import generalist
from generalist import cli_data
from generalist.console import show_log

DEFAULT_WORKDIR = "runs/multitask"  # where `python main.py --config=configs/multitask.py` trains
SCENES_AUTOENCODER = "scenes_autoencoder"  # the package's own, by the name `load_autoencoder` takes

_PREDICT = """examples:
  generalist predict photo.jpg --task depth semantic --out predictions
  generalist predict photos/*.jpg --task denoise --from runs/multitask --out predictions --tile

Each image and task gives <image>.<task>.png, the data (depth: 16-bit millimetres; semantic: class ids; instance: ids;
panoptic: COCO's PNG, with a .json; restoration: the image), and <image>.<task>.render.png, a picture for people.
The exit code is 0, or 1 if some image failed (the others are done nevertheless), or 2 if nothing could start.
"""
_EVALUATE = """examples:
  generalist evaluate --from runs/multitask --limit 100
  generalist evaluate --from runs/multitask --task derain --data-dir /data --split test/Rain100H --native --submission

The folder gets metrics.json, card.md and card.json, per_image.csv and panels/, and with --submission the predictions: panoptic in COCO's
form, semantic as 8-bit class + 1 (ADE20K), depth as 16-bit millimetres, restored images as PNG.
"""
_EXAMPLES = """examples:
  generalist predict photo.jpg --task depth semantic --out predictions
  generalist evaluate --from runs/multitask --limit 100
  generalist ceiling --latent
  generalist report runs/multitask
  generalist doctor
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns the exit code; what the user can mend is one line on stderr, without a traceback."""
    args = make_parser().parse_args(argv)
    sys.stdout.reconfigure(line_buffering=True)
    show_log()
    try:
        return args.run(args)
    except (
        BrokenPipeError
    ):  # the reader of a pipe, such as head, has seen enough; Python flushes once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError) as error:
        print(f"generalist: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("generalist: interrupted", file=sys.stderr)
        return 130


def make_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    raw = argparse.RawDescriptionHelpFormatter
    summary = generalist.__doc__.splitlines()[0]
    parser = argparse.ArgumentParser(
        "generalist", description=summary, epilog=_EXAMPLES, formatter_class=raw
    )
    parser.add_argument("--version", action="version", version=generalist.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run, help: str, **settings) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            run.__name__, help=help, description=help, formatter_class=raw, **settings
        )
        sub.set_defaults(run=run)
        return sub

    sub = command(
        predict,
        "Predict one task or several of images.",
        epilog=_PREDICT,
        usage="generalist predict IMAGE [IMAGE ...] [--task TASK [TASK ...]] [options]",
    )  # else IMAGE is shown last
    sub.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    sub.add_argument(
        "--task",
        nargs="+",
        default=["depth"],
        metavar="TASK",
        help="depth, semantic, ... (default: depth)",
    )
    _add_source(
        sub,
        "a workdir, a model folder, or 'scenes' for the weights of the package "
        f"(default: {DEFAULT_WORKDIR} if it holds weights, else scenes)",
    )
    sub.add_argument(
        "--out",
        default="predictions",
        metavar="DIR",
        help="folder of the results (default: %(default)s)",
    )
    sub.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="denoising steps (default: as the model's config says)",
    )
    sub.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the noise, where the sampler uses any (default: 0)",
    )
    sub.add_argument(
        "--tile",
        action=argparse.BooleanOptionalAction,
        help="restore in tiles at native resolution, or not (default: tiles for images larger than the model's)",
    )
    _add_evaluate(
        command(
            evaluate,
            "Measure a model on held-out data, by the official metrics. An interrupted run goes on by the same command.",
            epilog=_EVALUATE,
        )
    )
    _add_ceiling(
        command(
            ceiling,
            "Measure what perfect training would reach: the truth as colours, decoded; with --latent also after "
            "an autoencoder, as a latent diffusion model would see it. Into ceiling.json and a picture a size.",
        )
    )
    sub = command(
        export, "Copy what is needed to use a model into a folder of its own, at half the size."
    )
    _add_source(sub, f"a workdir (default: {DEFAULT_WORKDIR})")
    sub.add_argument("--out", required=True, metavar="DIR", help="the new folder")
    _add_weights(
        command(
            weights,
            "Published weights (Stable Diffusion's UNet or autoencoder, CLIP, SigLIP, DINOv2, T5): inspect, export.",
        )
    )
    cli_data.add_arguments(
        command(
            cli_data.data,
            "The data sets, and your own data: check what is there, prepare it as ArrayRecord files.",
        )
    )
    command(report, "Write report.html of an evaluated workdir.").add_argument(
        "workdir", metavar="WORKDIR"
    )
    command(doctor, "Show versions, devices, data and weights, and what is wrong with them.")
    return parser


def _add_source(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--from", dest="source", metavar="DIR", help=help)


def _add_evaluate(sub: argparse.ArgumentParser) -> None:
    _add_source(sub, f"a workdir or model folder, or 'scenes' (default: {DEFAULT_WORKDIR})")
    sub.add_argument(
        "--task",
        nargs="+",
        default=[],
        metavar="TASK",
        help="depth, semantic, ... (default: all that model and data have)",
    )
    sub.add_argument(
        "--data-dir",
        metavar="DIR",
        help="official data sets to measure on (default: the data it was trained on, whose "
        "place GENERALIST_DATA_DIR tells if it has changed)",
    )
    sub.add_argument(
        "--split",
        metavar="NAME",
        help="val, test, train, or one of a data set's own, such as test/Rain100H (default: val)",
    )
    sub.add_argument(
        "--limit", type=int, default=0, metavar="N", help="examples a task (default: 0, all)"
    )
    sub.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="denoising steps (default: as the model's config says)",
    )
    sub.add_argument(
        "--native",
        action=argparse.BooleanOptionalAction,
        help="measure restoration also at native resolution, in tiles, or not "
        "(default: on official data)",
    )
    sub.add_argument(
        "--submission",
        action="store_true",
        help="write the predictions in the benchmarks' formats, into submission/",
    )
    sub.add_argument(
        "--out",
        metavar="DIR",
        help="folder of the results (default: eval/<step> of the model's folder, with the choices "
        "above in its name)",
    )


def _add_ceiling(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--size",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="sides of the colour maps in pixels (default: the config's)",
    )
    sub.add_argument(
        "--task",
        nargs="+",
        default=[],
        metavar="TASK",
        help="depth, semantic, ... (default: all whose data are there)",
    )
    sub.add_argument("--split", metavar="NAME", help="as of evaluate (default: val)")
    sub.add_argument(
        "--latent",
        nargs="?",
        const=SCENES_AUTOENCODER,
        metavar="FOLDER",
        help="an AutoencoderKL: a folder or a hub id (without a value: the package's, trained on images of the scenes)",
    )
    sub.add_argument(
        "--limit", type=int, default=0, metavar="N", help="examples a task (default: 0, all)"
    )
    sub.add_argument(
        "--config",
        default="configs/multitask.py",
        metavar="FILE",
        help="whose data and tasks (default: %(default)s, the scenes unless GENERALIST_DATA_DIR is set)",
    )
    sub.add_argument(
        "--out",
        default="runs/ceiling",
        metavar="DIR",
        help="folder of the results (default: %(default)s)",
    )


def _add_weights(sub: argparse.ArgumentParser) -> None:
    actions = sub.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = actions.add_parser(
        "inspect", help="read a published model and say what became of every tensor"
    )
    inspect.add_argument("folder", help="folder with config.json and safetensors, or a hub id")
    export = actions.add_parser(
        "export", help="write parts of a trained model as the folders of diffusers and transformers"
    )
    _add_source(export, f"a workdir (default: {DEFAULT_WORKDIR})")
    export.add_argument("--out", required=True, metavar="DIR", help="gets a folder for each part")
    export.add_argument(
        "--part",
        nargs="+",
        default=[],
        choices=("unet", "image_encoder", "text_encoder", "autoencoder"),
        metavar="PART",
        help="unet, image_encoder, text_encoder, autoencoder (default: all that the model has)",
    )
    export.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "float16"),
        help="of the tensors (default: %(default)s)",
    )


def predict(args: argparse.Namespace) -> int:
    """Predicts every image; one that fails is reported and the others go on."""
    images = _distinct([pathlib.Path(image) for image in args.images])
    out = pathlib.Path(args.out)
    source = args.source or _default_source()
    model = generalist.load(source)
    model.components(args.task)  # an unknown task fails here, before the first image
    print(f"weights: {source}")
    failed, began = 0, time.monotonic()
    for done, image in enumerate(images, start=1):
        started = time.monotonic()
        try:
            results = model.predict(
                image, args.task, steps=args.steps, seed=args.seed, tile=args.tile
            )
            files = [
                file.name
                for result in results.values()
                for file in _save(result, out / f"{image.stem}.{result.task}")
            ]
        except (ValueError, OSError) as error:
            failed += 1
            print(f"generalist: error: {_one_line(error)}", file=sys.stderr)
            continue
        now = time.monotonic()
        left = (now - began) / done * (len(images) - done)
        eta = f", {left:.0f} s left" if left else ""
        print(f"[{done}/{len(images)}] {image}: {' '.join(files)}, {now - started:.2f} s{eta}")
    print(f"{len(images) - failed} of {len(images)} images done, results in {out}")
    return 1 if failed else 0


def _default_source() -> str:
    from generalist.pretrained.weights import WEIGHTS

    return DEFAULT_WORKDIR if (pathlib.Path(DEFAULT_WORKDIR) / WEIGHTS).is_file() else "scenes"


def _distinct(images: list[pathlib.Path]) -> list[pathlib.Path]:
    """`images` without repetitions. ValueError if two would write the same files."""
    by_stem = collections.defaultdict(dict)
    for image in images:
        by_stem[image.stem][image] = None
    for stem, same in by_stem.items():
        if len(same) > 1:
            raise ValueError(
                f"{', '.join(map(str, same))}: the results of both would be named {stem}.*; "
                "predict them in two runs with another --out"
            )
    return list(dict.fromkeys(images))


def _save(result, stem: pathlib.Path) -> list[pathlib.Path]:
    from generalist.files import write_atomically
    from generalist.inference.prediction import png

    files = result.save(f"{stem}.png")
    picture = pathlib.Path(f"{stem}.render.png")
    write_atomically(picture, png(result.render()))
    return [*files, picture]


def evaluate(args: argparse.Namespace) -> int:
    """Evaluates a model by its own config, on its own data or on those of --data-dir."""
    from generalist.pretrained.weights import SHIPPED, folder_of, load_weights, read_metadata

    source = args.source or DEFAULT_WORKDIR
    if source in SHIPPED and not args.out:
        raise ValueError(
            f"--from {source}: figures are written into the folder they belong to; say where else by --out"
        )
    if args.limit < 0 or (args.steps is not None and args.steps < 1):
        raise ValueError(
            f"--limit {args.limit} --steps {args.steps}: examples are at least 0, steps at least 1"
        )
    from ml_collections import ConfigDict

    from generalist.evaluation.workdir import evaluate_workdir

    config = ConfigDict(load_weights(source)[0])
    config.data_dir = args.data_dir or os.environ.get("GENERALIST_DATA_DIR", config.data_dir)
    if args.data_dir and config.data.source == "scenes":
        config.data.source = "paper"
    config.eval.split = args.split or config.eval.split
    folder, names = folder_of(source), args.task or ([] if args.data_dir else None)
    out = (
        pathlib.Path(args.out)
        if args.out
        else folder / "eval" / _eval_name(args, read_metadata(source).get("step", "0"))
    )
    evaluate_workdir(
        config,
        folder,
        args.limit,
        names=names,
        out_dir=out,
        steps=args.steps,
        native=config.data.source == "paper" if args.native is None else args.native,
        submission=args.submission,
    )
    print(f"metrics.json, card.md, per_image.csv and panels in {out}")
    return 0


def _eval_name(args: argparse.Namespace, step: str) -> str:
    """ "1500" for the model's own evaluation; what is chosen otherwise is added, so that it stays beside it: "1500_data_test"."""
    data = pathlib.Path(args.data_dir).resolve().name if args.data_dir else ""
    chosen = [
        step,
        "+".join(args.task),
        data,
        (args.split or "").replace("/", "-"),
        f"{args.steps}steps" if args.steps else "",
    ]
    return "_".join(part for part in chosen if part)


def ceiling(args: argparse.Namespace) -> int:
    """Measures the ceilings of pixels and, if asked, of latents, on held-out data."""
    if min(args.size, default=1) < 1 or args.limit < 0:
        raise ValueError(
            f"--size {' '.join(map(str, args.size))} --limit {args.limit}: sizes are at least 1, examples at least 0"
        )
    from generalist.evaluation.ceiling import ceiling as measure

    from generalist.training.flags import read_config

    config = read_config(args.config)
    config.eval.split = args.split or config.eval.split
    autoencoder = _autoencoder(args.latent) if args.latent else None
    measure(
        config,
        args.out,
        names=args.task,
        sizes=args.size,
        autoencoder=autoencoder,
        limit=args.limit,
        facts={"autoencoder": args.latent},
    )
    print(f"ceiling.json and pictures in {args.out}")
    return 0


def _autoencoder(folder: str):
    """Colours (b, s, s, 3) -> what the autoencoder decodes of their mean latents."""
    from flax import nnx

    from generalist.pretrained import load_autoencoder

    return functools.partial(
        nnx.jit(lambda model, rgb: model.decode(model.encode(rgb)[0])), load_autoencoder(folder)
    )


def export(args: argparse.Namespace) -> int:
    """Writes config.json and float16 weights; predictions change by no more than that rounding does."""
    import numpy as np

    from generalist.files import write_atomically
    from generalist.pretrained.weights import (
        CONFIG,
        folder_of,
        load_weights,
        read_metadata,
        save_weights,
    )

    source, out = folder_of(args.source or DEFAULT_WORKDIR), pathlib.Path(args.out)
    save_weights(out, load_weights(source)[1], read_metadata(source), np.float16)
    write_atomically(out / CONFIG, (source / CONFIG).read_bytes())
    print(f"{source} -> {out}: {sum(file.stat().st_size for file in out.iterdir()) / 1e6:.1f} MB")
    return 0


def weights(args: argparse.Namespace) -> int:
    """Inspect prints the report, a tensor that is missing or left over is an error; export writes parts for other libraries."""
    if args.action == "export":
        from generalist.pretrained.export import export_model

        export_model(args.source or DEFAULT_WORKDIR, args.out, args.part, args.dtype)
        return 0
    from generalist.pretrained.huggingface import read_published

    print(read_published(args.folder).report)
    return 0


def report(args: argparse.Namespace) -> int:
    """Writes the report and prints where it is."""
    from generalist.evaluation import write_report

    print(write_report(args.workdir))
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Prints what a report of a problem needs; the exit code is 1 if something is wrong."""
    import jax

    print(
        f"generalist {generalist.__version__}, Python {platform.python_version()}, {platform.platform()}"
    )
    for package in (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "numpy",
        "opencv-python-headless",
        "pillow",
    ):
        print(f"  {package} {_version(package)}")
    for device in jax.devices():
        print(f"  device {device.id}: {device.device_kind} ({device.platform})")
    problems = [*_device_problems(jax.default_backend()), *_data_problems(), *_weights_problems()]
    for problem in problems:
        print(f"warning: {problem}")
    print("all is well" if not problems else f"{len(problems)} warning(s)")
    return 1 if problems else 0


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _device_problems(backend: str) -> list[str]:
    if backend == "cpu" and shutil.which("nvidia-smi"):
        return [
            "JAX runs on the CPU although there is an NVIDIA card: pip install 'jax[cuda13]', or 'jax[cuda12]'"
        ]
    return []


def _data_problems() -> list[str]:
    folder = os.environ.get("GENERALIST_DATA_DIR", "")
    print(f"data directory (GENERALIST_DATA_DIR): {folder or 'none, the built-in scenes are used'}")
    if folder and "://" not in folder and not pathlib.Path(folder).is_dir():
        return [f"GENERALIST_DATA_DIR={folder} is no folder"]
    return []


def _weights_problems() -> list[str]:
    from generalist.pretrained.weights import SHIPPED

    problems = []
    for name, folder in SHIPPED.items():
        try:
            model = generalist.load(name)
        except ValueError as error:
            problems.append(_one_line(error))
        else:
            print(
                f"weights '{name}': {sum(x.size for x in model.parameters.values()) / 1e6:.1f} M parameters in {folder}"
            )
    return problems


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
