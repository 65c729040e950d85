"""Feeds changed files to the readers: each is read or refused with a message, nothing else.

    python benchmarks/fuzz.py --seconds 60 --seed 0 --out fuzz

Every reader starts from small whole files. An input is a change of one that was kept: bytes, cuts,
repetitions, numbers at the edge, pieces of another. It is kept where it leads to a result or a
message that none before led to, so that the changes go on from there. A fault is any exception but
the reader's own, more than 10 seconds, or the end of the process (a reader has one of its own, of
at most 4 GiB).

Prints a line a reader: inputs, outcomes, faults. The input of each fault is in the folder; the exit
code is 1 if there are any.
"""

import argparse
import io
import json
import multiprocessing
import os
import pathlib
import random
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import h5py
import numpy as np
import safetensors.numpy
import scipy.io

from generalist.configs import common
from generalist.files import DamagedFileError, read_json
from generalist.inference.images import read_image
from generalist.input_pipeline.sources import files, matlab, nyu, sidd
from generalist.pretrained import huggingface, weights
from generalist.pretrained.old_configs import rename_fields
from generalist.recipe import Recipe
from generalist.training import flags

MOST_SECONDS = 10  # an input
MOST_MEMORY = 4 * 2**30  # bytes of a reader's process
MOST_BYTES = 2**16  # an input
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)


class TooSlowError(BaseException):
    """An input takes longer than MOST_SECONDS; no reader catches it."""


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


def read_frame(path: pathlib.Path) -> np.ndarray:
    """Reads the first frame of NYU's labeled file, opened anew."""
    matlab._open_hdf5.cache_clear()
    return nyu.read_labeled(str(path), 0)[1]


def encoded(suffix: str, pixels: np.ndarray) -> bytes:
    """Returns an image file."""
    return cv2.imencode(suffix, pixels)[1].tobytes()


def tensor_files() -> list[bytes]:
    """Returns safetensors files of one and of several types."""
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.zeros(5, np.float16)}
    return [safetensors.numpy.save({"w": arrays["a"]}), safetensors.numpy.save(arrays, {"k": "v"})]


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
        file["sceneTypes"] = np.zeros((1, 1), np.uint8)
    return content.getvalue()


# Changes ------------------------------------------------------------------------------------------


def mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Returns `data` with one to four changes; `other` gives pieces."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((0, 1, 1, 2, 4, 8, 64)))
        data = data[:start] + piece(data[start:end], other, rng) + data[end:]
        if rng.random() < 0.05:
            data = data[: rng.randrange(len(data) + 1)]
    return data[:MOST_BYTES]


def piece(old: bytes, other: bytes, rng: random.Random) -> bytes:
    """Returns what replaces a piece of a file."""
    kind = rng.randrange(6)
    if kind == 0:
        return bytes(rng.randrange(256) for _ in old)
    if kind == 1:
        return rng.choice(EDGES).to_bytes(8, rng.choice(("little", "big")))[: len(old) or 1]
    if kind == 2:
        return old * rng.choice((0, 2, 3, 100))
    if kind == 3:
        start = rng.randrange(len(other) + 1)
        return other[start : start + rng.choice((1, 4, 16, 64))]
    if kind == 4:
        # What a text holds: numbers, brackets, signs.
        words = ("0", "-1", "1e999", "null", "[]", "{}", '"', "\\", "=", "\n", "--", "(", "9" * 20)
        return rng.choice(words).encode()
    return bytes(byte ^ (1 << rng.randrange(8)) for byte in old)


# One reader ---------------------------------------------------------------------------------------


def stop_slow(number: int, frame: Any) -> None:
    """Ends an input that takes too long."""
    raise TooSlowError


def outcome(reader: Reader, path: pathlib.Path) -> tuple[str, str]:
    """Reads a file.

    Returns:
      What came of it, without its numbers; and the traceback of a fault, or "".
    """
    signal.alarm(MOST_SECONDS)
    try:
        result = reader.read(path)
        return f"read {type(result).__name__}", ""
    except reader.refuses as error:
        message = str(error).replace(str(path.parent), "")
        # Quoted pieces of the input and numbers differ from each input to the next.
        return re.sub(r"'[^']*'|\d+|[^\x20-\x7e]", "#", message)[:80], ""
    except (Exception, TooSlowError) as error:
        return f"fault {type(error).__name__}", traceback.format_exc()
    finally:
        signal.alarm(0)


def try_reader(name: str, seconds: float, seed: int, out: pathlib.Path, results: Any) -> None:
    """Tries changed files for a time; puts how many inputs, outcomes and faults into `results`."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    signal.signal(signal.SIGALRM, stop_slow)
    # A command line prints its config, decoders write straight to the process's own streams.
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    rng = random.Random(f"{seed} {name}")
    reader = readers()[name]

    kept = list(reader.seeds)
    seen = set()
    faults = {}
    tried = 0
    path = out / name.replace(" ", "_") / reader.name
    path.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        # The whole files come first.
        data = kept[tried] if tried < len(reader.seeds) else rng.choice(kept)
        if tried >= len(reader.seeds):
            data = mutate(data, rng.choice(kept), rng)
        path.write_bytes(data)
        what, problem = outcome(reader, path)
        tried += 1

        if what not in seen:
            seen.add(what)
            kept.append(data)
        if problem:
            place = problem.splitlines()[-4:-1]
            if (what, *place) not in faults:
                faults[(what, *place)] = problem
                (path.parent / f"fault_{len(faults)}").write_bytes(data)
                (path.parent / f"fault_{len(faults)}.txt").write_text(problem, encoding="utf-8")
    results.put((tried, len(seen), len(faults)))


def main() -> int:
    """Tries every reader in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="a reader (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("fuzz"))
    parser.add_argument("--reader", nargs="+", default=list(readers()), help="default: all")
    args = parser.parse_args()

    total = 0
    # Not forked: the readers' libraries have threads.
    context = multiprocessing.get_context("spawn")
    for name in args.reader:
        results = context.Queue()
        arguments = (name, args.seconds, args.seed, args.out.absolute(), results)
        process = context.Process(target=try_reader, args=arguments)
        process.start()
        process.join()

        if process.exitcode:
            print(f"{name}: ended with {process.exitcode}; its last input is in {args.out}")
            total += 1
            continue
        tried, outcomes, faults = results.get()
        total += faults
        print(f"{name}: {tried:,} inputs, {outcomes} outcomes, {faults} faults", flush=True)
    print(f"{total} faults")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
