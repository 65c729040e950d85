"""Feeds changed files to the readers: each is read or refused with a message, nothing else.

    pip install -e '.[fuzz]'
    python benchmarks/fuzz.py --seconds 60 --seed 1 --out fuzz

Every reader starts from small whole files. Atheris changes them and keeps a change that reaches new
lines of this package's Python, so that the next ones go on from there; NumPy, OpenCV, Pillow, h5py
and safetensors run unwatched. A fault is any exception but the reader's own, more than 10 seconds,
or the end of the process (a reader has one of its own, of at most 4 GiB).

Prints a line a reader: inputs, inputs kept, faults. The input of each fault is in the folder; the
exit code is 1 if there are any.
"""

import argparse
import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import atheris
import cv2
import h5py
import numpy as np
import safetensors.numpy
import scipy.io

# What is watched is imported here, in the processes that read.
watched = contextlib.nullcontext()
if "--here" in sys.argv:
    watched = atheris.instrument_imports(include=["generalist"])
with watched:
    from generalist.configs import common
    from generalist.files import DamagedFileError, read_json
    from generalist.inference.images import read_image
    from generalist.input_pipeline.sources import coco, files, folder, matlab, nyu, sidd
    from generalist.pretrained import huggingface, weights
    from generalist.pretrained.old_configs import rename_fields
    from generalist.recipe import Recipe
    from generalist.training import flags

MOST_SECONDS = 10  # an input
MOST_MEMORY = 4096  # MiB of a reader's process
MOST_BYTES = 2**16  # an input
MANY = 100  # inputs between two reports
REPORT = "report.json"
CORPUS = "kept"


class Reader(NamedTuple):
    """What is tried.

    Attributes:
      read: a file -> anything.
      refuses: what it may raise.
      name: of the file.
      seeds: whole files.
    """

    read: Callable[[pathlib.Path], Any]
    refuses: tuple[type[Exception], ...]
    name: str
    seeds: list[bytes]


def readers() -> dict[str, Reader]:
    """Returns the readers by their names."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    ids = (pixels[:, :, 0] % 4).astype(np.uint16)
    images = [encoded(suffix, pixels) for suffix in (".png", ".jpg", ".webp", ".bmp", ".tif")]
    maps = [encoded(".png", ids), encoded(".png", ids.astype(np.uint8))]

    config = json.loads(Recipe.from_config(common.get_config("tiny")).to_json())
    vision = {"model_type": "clip_vision_model", "hidden_size": 8, "num_attention_heads": 2}
    vision |= {"num_hidden_layers": 1}  # a small model, since each is built
    unet = {"_class_name": "UNet2DConditionModel", "block_out_channels": [8], "norm_num_groups": 4}
    line = "\n".join(("--config", "configs/multitask.py:tiny", "--config.seed=1", "--workdir=w"))
    return {
        "photograph": Reader(read_image, (ValueError,), "a.png", images),
        "training image": Reader(of_text(files.read_image), (files.DataError,), "a.png", images),
        "label": Reader(read_label, (files.DataError,), "a.png", maps),
        "safetensors": Reader(
            weights.read_tensor_file, (DamagedFileError,), "model.safetensors", tensor_files()
        ),
        "config.json": Reader(
            lambda path: Recipe.from_config(rename_fields(read_json(path))),
            (ValueError,),
            "config.json",
            [json.dumps(config).encode()],
        ),
        "published config": Reader(
            lambda path: huggingface.read_published(path.parent),
            (weights.WeightsError,),
            "config.json",
            [json.dumps(vision).encode(), json.dumps(unet).encode()],
        ),
        "blocks of SIDD": Reader(read_blocks, (files.DataError,), "a.mat", [matlab_file()]),
        "numbers of a label": Reader(
            of_text(folder._load_array), (files.DataError,), "a.npy", [array_file()]
        ),
        "annotations of COCO": Reader(
            read_annotations, (files.DataError,), "a.json", [annotations_file()]
        ),
        "frames of NYU": Reader(read_frame, (files.DataError,), "a.mat", [hdf5_file()]),
        "command line": Reader(
            lambda path: flags.parse(["main.py", *path.read_text("utf-8").split("\n")]),
            (ValueError,),
            "words.txt",
            [line.encode()],
        ),
    }


def of_text(read: Callable[[str], Any]) -> Callable[[pathlib.Path], Any]:
    """Returns a reader of a path for one of a path's text."""
    return lambda path: read(str(path))


def read_label(path: pathlib.Path) -> np.ndarray:
    """Reads a label as 16 bits a pixel."""
    return files.read_map(str(path), np.uint16, "A label")


def read_blocks(path: pathlib.Path) -> Any:
    """Reads the header of SIDD's blocks, then the blocks."""
    shape = sidd.block_shape(str(path), "blocks")
    sidd._load_blocks.cache_clear()
    return shape, sidd.load_blocks(str(path), "blocks").shape


def read_annotations(path: pathlib.Path) -> Any:
    """Reads COCO's JSON, and the segments of its images."""
    coco.read_annotations.cache_clear()
    annotations = coco.read_annotations(str(path))
    return annotations.with_things()


def read_frame(path: pathlib.Path) -> np.ndarray:
    """Opens NYU's labeled file anew, with a list of its one frame, and reads that."""
    matlab._open_hdf5.cache_clear()
    folder = path.parent / nyu.NYUV2.FOLDERS[0]
    folder.mkdir(exist_ok=True)
    scipy.io.savemat(folder / nyu.SPLITS_MAT, {"testNdxs": np.array([[1]])})
    (folder / nyu.LABELED).unlink(missing_ok=True)
    (folder / nyu.LABELED).hardlink_to(path)
    return nyu.NYUV2(path.parent, "test", quiet=True)[0]["label"]


def encoded(suffix: str, pixels: np.ndarray) -> bytes:
    """Returns an image file."""
    return cv2.imencode(suffix, pixels)[1].tobytes()


def tensor_files() -> list[bytes]:
    """Returns safetensors files of one and of several types."""
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.zeros(5, np.float16)}
    return [safetensors.numpy.save({"w": arrays["a"]}), safetensors.numpy.save(arrays, {"k": "v"})]


def array_file() -> bytes:
    """Returns a .npy file."""
    file = io.BytesIO()
    np.save(file, np.ones((3, 4), np.float32))
    return file.getvalue()


def annotations_file() -> bytes:
    """Returns a panoptic JSON like COCO's."""
    categories = [{"id": index, "name": "a", "isthing": 1} for index in range(coco.NUM_CATEGORIES)]
    segment = {"id": 7, "category_id": 1, "iscrowd": 0, "area": 9}
    annotation = {"image_id": 1, "file_name": "1.png", "segments_info": [segment]}
    images = [{"id": 1, "file_name": "1.jpg"}]
    content = {"images": images, "annotations": [annotation], "categories": categories}
    return json.dumps(content).encode()


def matlab_file() -> bytes:
    """Returns a version 5 .mat file like SIDD's."""
    file = io.BytesIO()
    scipy.io.savemat(file, {"blocks": np.ones((1, 2, 4, 4, 3), np.uint8)}, do_compression=True)
    return file.getvalue()


def hdf5_file() -> bytes:
    """Returns a version 7.3 .mat file like NYU's."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["images"] = np.zeros((1, 3, 8, 6), np.uint8)
        file["rawDepths"] = np.ones((1, 8, 6), np.float32)
        name = file.create_dataset("#refs#/0", data=np.array([[ord("a")]], np.uint16))
        file.create_dataset("sceneTypes", data=np.array([[name.ref]], h5py.ref_dtype))
    return content.getvalue()


# One reader ---------------------------------------------------------------------------------------


class Trial:
    """Reads input after input, and writes down what came of them.

    Args:
      reader: what reads.
      folder: gets the current input, every fault, and the report.
    """

    def __init__(self, reader: Reader, folder: pathlib.Path):
        self._reader = reader
        self._folder = folder
        self._tried = 0
        self._faults: set[tuple[str, ...]] = set()

    def __call__(self, data: bytes) -> None:
        """Reads one input."""
        path = self._folder / self._reader.name
        path.write_bytes(data)
        try:
            self._reader.read(path)
        except self._reader.refuses:
            pass
        except Exception:
            self._keep(data, traceback.format_exc())

        # The process ends without a word to this class.
        self._tried += 1
        if self._tried % MANY == 0:
            self.report()

    def _keep(self, data: bytes, problem: str) -> None:
        """Keeps the first input of a fault: of those that end in the same lines."""
        place = tuple(problem.splitlines()[-4:])
        if place in self._faults:
            return
        self._faults.add(place)
        name = f"fault_{len(self._faults)}"
        (self._folder / name).write_bytes(data)
        (self._folder / f"{name}.txt").write_text(problem, encoding="utf-8")
        self.report()

    def report(self) -> None:
        """Writes how many inputs and faults there were."""
        report = {"tried": self._tried, "faults": len(self._faults)}
        (self._folder / REPORT).write_text(json.dumps(report), encoding="utf-8")


def try_reader(name: str, seconds: int, seed: int, out: pathlib.Path) -> None:
    """Tries changed files for a time; never returns, as libFuzzer ends the process."""
    reader = readers()[name]
    folder = out / name.replace(" ", "_")
    corpus = folder / CORPUS
    corpus.mkdir(parents=True, exist_ok=True)
    for index, data in enumerate(reader.seeds):
        (corpus / f"seed_{index}").write_bytes(data)

    trial = Trial(reader, folder)
    trial.report()
    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-max_len={MOST_BYTES}",
        f"-timeout={MOST_SECONDS}",
        f"-rss_limit_mb={MOST_MEMORY}",
        f"-artifact_prefix={folder}/",
    ]
    # What the readers print would hide what they do.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    atheris.Setup([sys.argv[0], *options, str(corpus)], trial)
    atheris.Fuzz()


def main() -> int:
    """Tries every reader in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="a reader (default: 60)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("fuzz"))
    parser.add_argument("--reader", nargs="+", default=list(readers()), help="default: all")
    parser.add_argument("--here", action="store_true", help="a single reader in this process")
    args = parser.parse_args()
    if args.here:
        try_reader(args.reader[0], args.seconds, args.seed, args.out.absolute())

    total = 0
    for name in args.reader:
        folder = args.out / name.replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--seconds", str(args.seconds), "--seed", str(args.seed), "--out", str(args.out)]
        command = [sys.executable, __file__, "--here", "--reader", name, *options]
        with open(folder / "log.txt", "w", encoding="utf-8") as log:
            code = subprocess.run(command, stderr=log, check=False).returncode

        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        faults = report["faults"]
        ended = ""
        if code:
            faults += 1
            ended = f"; the process ended with {code}, see {folder}/log.txt"
        kept = len(list((folder / CORPUS).iterdir()))
        print(
            f"{name}: {report['tried']:,} inputs, {kept} kept, {faults} faults{ended}", flush=True
        )
        total += faults
    print(f"{total} faults")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
