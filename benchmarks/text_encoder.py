"""Writes the text encoder of the scenes' text-to-image model: a folder in Stable Diffusion's form.

    PYTHONPATH=. python benchmarks/text_encoder.py --out prior

It has CLIP's form and random values, which stay as they are: it gives every word of the captions,
and every place in a caption, features of its own, from which the UNet learns what they mean. The
tokenizer knows the words of the captions, of the tasks' prompts and of the classes, and spells
every other word, so that no two prompts are alike. Writes prior/text_encoder and prior/tokenizer.
"""

import argparse
import json
import pathlib
import re
import string

import tokenizers

from generalist.configs.common import CAPTION_LENGTH
from generalist.files import write_atomically
from generalist.input_pipeline.scenes.source import ScenesSource
from generalist.models import layers, parameters
from generalist.models.text_encoder import TextEncoder
from generalist.pretrained.export import export_component
from generalist.tasks import SCENES_TASKS

START = "<|startoftext|>"
END = "<|endoftext|>"  # also fills what is shorter
UNKNOWN = "<unknown>"
WORD = r"[\p{L}\p{N}]+"
LETTERS = string.ascii_lowercase + string.digits
INSIDE = "##"  # begins a letter that is not the first of its word
CAPTIONS = 3_000  # that are read for their words
SIZES = {"dim": 128, "depth": 2, "heads": 4, "causal": True, "epsilon": 1e-5}


def words(captions: int) -> list[str]:
    """Returns every word of that many captions, of the tasks' prompts and of the classes."""
    source = ScenesSource("text_to_image", "train", captions, 64)
    texts = [source[index]["prompt"] for index in range(captions)]
    for task in SCENES_TASKS.values():
        texts += [task.prompt, *getattr(task, "classes", ())]
    return sorted(set(re.findall(r"\w+", " ".join(texts).lower())))


def tokenizer(vocabulary: list[str]) -> tokenizers.Tokenizer:
    """Returns a tokenizer of whole words in lower case, or letters; punctuation counts nothing."""
    letters = [*LETTERS, *(INSIDE + letter for letter in LETTERS)]
    names = dict.fromkeys([UNKNOWN, *vocabulary, *letters, START, END])
    ids = {name: index for index, name in enumerate(names)}
    tokens = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(
            ids, unk_token=UNKNOWN, continuing_subword_prefix=INSIDE, max_input_chars_per_word=100
        )
    )
    tokens.normalizer = tokenizers.normalizers.Lowercase()
    tokens.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(WORD), behavior="removed", invert=True
    )
    tokens.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, ids[START]), (END, ids[END])]
    )
    return tokens


def write(out: pathlib.Path, captions: int = CAPTIONS) -> str:
    """Writes both folders below `out`; returns what they hold, for people.

    Args:
      out: a folder.
      captions: that are read for their words.
    """
    tokens = tokenizer(words(captions))
    files = {
        "tokenizer.json": tokens.to_str(),
        "tokenizer_config.json": json.dumps({"pad_token": END}, indent=1),
    }
    for name, text in files.items():
        write_atomically(out / "tokenizer" / name, text.encode())

    settings = SIZES | {"vocabulary": tokens.get_vocab_size(), "length": CAPTION_LENGTH}
    encoder = TextEncoder(**settings, rngs=layers.HostRngs(0))
    _, values = parameters.split(encoder)
    export = export_component("text_encoder", settings, values, out / "text_encoder")
    return f"{out}: {tokens.get_vocab_size()} tokens; {export}"


def main() -> None:
    """Writes both folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("prior"))
    parser.add_argument(
        "--captions", type=int, default=CAPTIONS, help="that are read for their words"
    )
    args = parser.parse_args()
    print(write(args.out, args.captions))


if __name__ == "__main__":
    main()
