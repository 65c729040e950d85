"""The command `generalist weights`."""

import argparse

from generalist.cli.common import DEFAULT_WORKDIR, add_source

HELP = (
    "Published weights (Stable Diffusion's UNet or autoencoder, CLIP, SigLIP, DINOv2, T5): "
    "inspect, export."
)
PARTS = ("unet", "image_encoder", "text_encoder", "autoencoder")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of both actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    inspect = actions.add_parser(
        "inspect", help="read a published model and say what became of every tensor"
    )
    inspect.add_argument("folder", help="folder with config.json and safetensors, or a hub id")

    export = actions.add_parser(
        "export", help="write parts of a trained model as the folders of diffusers and transformers"
    )
    add_source(export, f"a workdir (default: {DEFAULT_WORKDIR})")
    export.add_argument("--out", required=True, metavar="DIR", help="gets a folder for each part")
    export.add_argument(
        "--part",
        nargs="+",
        default=[],
        choices=PARTS,
        metavar="PART",
        help=f"{', '.join(PARTS)} (default: all that the model has)",
    )
    export.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "float16"),
        help="of the tensors (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Inspects or exports. A tensor that is missing or left over is an error."""
    if args.action == "export":
        from generalist.pretrained.export import export_model

        export_model(args.source or DEFAULT_WORKDIR, args.out, args.part, args.dtype)
    else:
        from generalist.pretrained.huggingface import read_published

        print(read_published(args.folder).report)
    return 0
