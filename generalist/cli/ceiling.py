"""The command `generalist ceiling`."""

import argparse
import functools

HELP = (
    "Measure what perfect training would reach: the truth as colors, decoded; with --latent also "
    "after an autoencoder, as a latent diffusion model would see it. Into ceiling.json and a "
    "picture a size."
)
SCENES_AUTOENCODER = "scenes_autoencoder"  # the package's own, by the name `load_autoencoder` takes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    # What is measured.
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="sides of the color maps in pixels (default: the config's)",
    )
    parser.add_argument(
        "--task",
        nargs="+",
        default=[],
        metavar="TASK",
        help="depth, semantic, ... (default: all whose data are there)",
    )
    parser.add_argument("--split", metavar="NAME", help="as of evaluate (default: val)")
    parser.add_argument(
        "--latent",
        nargs="?",
        const=SCENES_AUTOENCODER,
        metavar="FOLDER",
        help="an AutoencoderKL: a folder or a hub id "
        "(without a value: the package's, trained on images of the scenes)",
    )

    # On which examples, and where the figures go.
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N", help="examples a task (default: 0, all)"
    )
    parser.add_argument(
        "--config",
        default="configs/multitask.py",
        metavar="FILE",
        help="whose data and tasks "
        "(default: %(default)s, the scenes unless GENERALIST_DATA_DIR is set)",
    )
    parser.add_argument(
        "--out",
        default="runs/ceiling",
        metavar="DIR",
        help="folder of the results (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Measures the ceilings of pixels and, if asked, of latents, on held-out data."""
    if min(args.size, default=1) < 1 or args.limit < 0:
        raise ValueError(
            f"--size {' '.join(map(str, args.size))} --limit {args.limit}: "
            "sizes are at least 1, examples at least 0"
        )

    from generalist.evaluation.ceiling import ceiling
    from generalist.training.flags import read_config

    config = read_config(args.config)
    config.eval.final_split = args.split or config.eval.final_split
    ceiling(
        config,
        args.out,
        names=args.task,
        sizes=args.size,
        autoencoder=_load_autoencoder(args.latent) if args.latent else None,
        limit=args.limit,
        facts={"autoencoder": args.latent},
    )
    print(f"ceiling.json and pictures in {args.out}")
    return 0


def _load_autoencoder(folder: str):
    """Returns a function of colors (b, s, s, 3): what is decoded of their mean latents."""
    from flax import nnx

    from generalist.pretrained import load_autoencoder

    @nnx.jit
    def reconstruct(model, rgb):
        mean, *_ = model.encode(rgb)
        return model.decode(mean)

    return functools.partial(reconstruct, load_autoencoder(folder))
