"""The tokenizer beside a published text encoder.

It is read from its own files: tokenizer.json, or CLIP's vocab.json and merges.txt. A run whose
examples have prompts of their own keeps a copy of them, in `tokenizer` of its workdir.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from generalist.files import read_json, read_text, write_atomically
from generalist.pretrained.weights import WeightsError

# How CLIP cuts a text into words, from its published code.
CLIP_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""

FOLDER = "tokenizer"  # beside a text encoder, and in a model folder
# The files that one may have.
FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Turns prompts into ids; picklable.

    Attributes:
      folder: of the text encoder, for errors.
      tokens: a `tokenizers.Tokenizer`.
      length: ids a prompt; None: as many as the longest of a call.
      padding: the id that fills a shorter one.
    """

    folder: str
    tokens: Any
    length: int | None
    padding: int

    def __call__(self, prompts: Sequence[str], cut: bool = False) -> np.ndarray:
        """Returns the ids of k prompts, int32 (k, n).

        Args:
          prompts: k texts.
          cut: leave out what does not fit into `length`, but for the last id, which ends a prompt.

        Raises:
          WeightsError: a prompt has more ids than `length`, unless `cut`.
        """
        rows = [self.tokens.encode(prompt).ids for prompt in prompts]
        width = self.length or max(map(len, rows))
        if cut:
            rows = [row if len(row) <= width else row[: width - 1] + row[-1:] for row in rows]

        # Never cut a prompt silently: its end may be what matters.
        for prompt, row in zip(prompts, rows, strict=True):
            if len(row) > width:
                raise WeightsError(
                    f"prompt {prompt!r} has {len(row)} tokens, the text encoder in {self.folder} "
                    f"takes {width}: shorten it"
                )
        return np.asarray([row + [self.padding] * (width - len(row)) for row in rows], np.int32)

    def check_vocabulary(self, vocabulary: int) -> None:
        """Raises WeightsError if an id is beyond a text encoder's: its token would be nan."""
        largest = max(self.tokens.get_vocab().values(), default=0)
        if largest >= vocabulary:
            raise WeightsError(
                f"{self.folder}: its tokenizer has ids up to {largest}, the text encoder takes "
                f"those below {vocabulary}: copy the files of the encoder's own tokenizer there"
            )


def read_tokenizer(folder, length: int | None) -> Tokenizer:
    """Reads the tokenizer of a text encoder, from its folder or from `tokenizer` beside it.

    Args:
      folder: a text encoder's folder, or that of a copy.
      length: ids a prompt (CLIP: 77, filled with its padding token, which it is trained to see);
        None pads with 0 to the longest prompt (T5, which masks it).

    Raises:
      WeightsError: no tokenizer files, damaged ones, or no `tokenizers` package.
    """
    place = find_tokenizer(pathlib.Path(folder))
    tokenizer = _load(place)
    padding = 0
    if length:
        name = _padding_token(place)
        padding = tokenizer.token_to_id(name)
        if padding is None:
            raise WeightsError(
                f"{place}: its padding token {name!r} is not in the vocabulary. Fetch the "
                "tokenizer's files again."
            )

    return Tokenizer(str(folder), tokenizer, length, padding)


def copy_tokenizer(source, model_folder: pathlib.Path) -> None:
    """Copies the files of a tokenizer into a model folder, each atomically.

    Args:
      source: the text encoder's folder, as of `read_tokenizer`.
      model_folder: gets them in FOLDER.

    Raises:
      WeightsError: no tokenizer files.
    """
    place = find_tokenizer(pathlib.Path(source))
    for name in FILES:
        if (place / name).is_file():
            write_atomically(model_folder / FOLDER / name, (place / name).read_bytes())


def find_tokenizer(folder: pathlib.Path) -> pathlib.Path:
    """Finds the folder with the tokenizer's files.

    Raises:
      WeightsError: there is none; it says which files were looked for, and where.
    """
    places = [folder, folder.parent / FOLDER]
    for place in places:
        if (place / "tokenizer.json").is_file():
            return place
        if (place / "vocab.json").is_file() and (place / "merges.txt").is_file():
            return place
    raise WeightsError(
        f"{folder}: no tokenizer.json, and no vocab.json with merges.txt, in "
        f"{' or '.join(map(str, places))}. Copy the tokenizer's files there (a spiece.model alone: "
        "save it once as tokenizer.json with transformers' fast tokenizer)."
    )


def _load(place: pathlib.Path):
    """Returns the `tokenizers.Tokenizer` of a folder."""
    try:
        import tokenizers
    except ImportError as error:
        raise WeightsError(
            f"{place}: to read a tokenizer, pip install 'generalist[pretrained]' (or tokenizers)"
        ) from error

    try:
        if (place / "tokenizer.json").is_file():
            tokenizer = tokenizers.Tokenizer.from_str(read_text(place / "tokenizer.json"))

            # Files carry the padding and truncation of whoever saved them.
            tokenizer.no_padding()
            tokenizer.no_truncation()
            return tokenizer
        return _clip(tokenizers, place)
    except Exception as error:  # the package raises plain Exception for damaged files
        raise WeightsError(
            f"{place}: damaged tokenizer files ({error}). Fetch them again."
        ) from error


def _clip(tokenizers, place: pathlib.Path):
    """Builds CLIP's byte-level BPE.

    Text is lower-cased and cut into words by `CLIP_PATTERN`; a word ends in "</w>"; a start and an
    end token are put around all of it.
    """
    vocabulary = read_json(place / "vocab.json")
    lines = read_text(place / "merges.txt").splitlines()
    merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    start = "<|startoftext|>"
    end = "<|endoftext|>"
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab=vocabulary,
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=end,
        )
    )

    # The steps before the BPE, in CLIP's order.
    normalizers = tokenizers.normalizers
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    pre_tokenizers = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(CLIP_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )

    # RoBERTa's processor is the one that puts one token before and one behind.
    tokenizer.post_processor = tokenizers.processors.RobertaProcessing(
        (end, vocabulary[end]),
        (start, vocabulary[start]),
        add_prefix_space=False,
        trim_offsets=False,
    )
    return tokenizer


def _padding_token(place: pathlib.Path) -> str:
    """Returns the padding token: Stable Diffusion 1.x has the end token, 2.x "!", by its files."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (place / name).is_file():
            try:
                token = read_json(place / name).get("pad_token")
            except (ValueError, OSError) as error:
                raise WeightsError(f"{error}. Fetch the file again.") from error
            if isinstance(token, dict):
                token = token.get("content")
            if token:
                return str(token)
    return "<|endoftext|>"
