"""The tokenizer beside a published text encoder, from its own files: tokenizer.json, or CLIP's vocab.json and merges.txt."""

import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from generalist.pretrained.weights import WeightsError

CLIP_PATTERN = (
    r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""  # of its published code
)


def read_tokenizer(folder, length: int | None) -> Callable[[Sequence[str]], np.ndarray]:
    """The tokenizer of the text encoder in `folder`, there or in the pipeline's `tokenizer` next to it.

    Args:
      folder: a text encoder's folder.
      length: ids a prompt (CLIP: 77, filled with its padding token, which it is trained to see); None pads with 0 to the
        longest prompt (T5, which masks it).

    Returns:
      prompts -> ids (k, n) int32.

    Raises WeightsError: no tokenizer files, damaged ones, no `tokenizers` package, or a prompt that is too long.
    """
    place = find_tokenizer(pathlib.Path(folder))
    tokenizer = _load(place)
    padding = tokenizer.token_to_id(_padding_token(place)) if length else 0

    def encode(prompts: Sequence[str]) -> np.ndarray:
        rows = [tokenizer.encode(prompt).ids for prompt in prompts]
        width = length or max(map(len, rows))
        for prompt, row in zip(prompts, rows):
            if len(row) > width:
                raise WeightsError(
                    f"prompt {prompt!r} has {len(row)} tokens, the text encoder in {folder} takes {width}: shorten it"
                )
        return np.asarray([row + [padding] * (width - len(row)) for row in rows], np.int32)

    return encode


def find_tokenizer(folder: pathlib.Path) -> pathlib.Path:
    """The folder with the tokenizer's files. WeightsError that says which files are looked for where."""
    places = [folder, folder.parent / "tokenizer"]
    for place in places:
        if (place / "tokenizer.json").is_file() or (
            (place / "vocab.json").is_file() and (place / "merges.txt").is_file()
        ):
            return place
    raise WeightsError(
        f"{folder}: no tokenizer.json, and no vocab.json with merges.txt, in {' or '.join(map(str, places))}. Copy the "
        "tokenizer's files there (a spiece.model alone: save it once as tokenizer.json with transformers' fast tokenizer)."
    )


def _load(place: pathlib.Path):
    try:
        import tokenizers
    except ImportError as error:
        raise WeightsError(
            f"{place}: to read a tokenizer, pip install 'generalist[pretrained]' (or tokenizers)"
        ) from error
    try:
        if (place / "tokenizer.json").is_file():
            tokenizer = tokenizers.Tokenizer.from_file(str(place / "tokenizer.json"))
            tokenizer.no_padding()  # files carry the settings of whoever saved them
            tokenizer.no_truncation()
            return tokenizer
        return _clip(tokenizers, place)
    except Exception as error:  # the package raises plain Exception for damaged files
        raise WeightsError(
            f"{place}: damaged tokenizer files ({error}). Fetch them again."
        ) from error


def _clip(tokenizers, place: pathlib.Path):
    """CLIP's byte-level BPE: lower case, words cut by `CLIP_PATTERN`, "</w>" at their ends, start and end tokens around."""
    vocabulary = json.loads((place / "vocab.json").read_text())
    lines = (place / "merges.txt").read_text().splitlines()
    merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    start, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab=vocabulary,
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=end,
        )
    )
    n, pre = tokenizers.normalizers, tokenizers.pre_tokenizers
    tokenizer.normalizer = n.Sequence(
        [n.NFC(), n.Replace(tokenizers.Regex(r"\s+"), " "), n.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre.Sequence(
        [
            pre.Split(tokenizers.Regex(CLIP_PATTERN), behavior="removed", invert=True),
            pre.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.post_processor = tokenizers.processors.RobertaProcessing(
        (end, vocabulary[end]),
        (start, vocabulary[start]),
        add_prefix_space=False,
        trim_offsets=False,
    )
    return tokenizer


def _padding_token(place: pathlib.Path) -> str:
    """Stable Diffusion 1.x fills with the end token, 2.x with "!"; the files say so."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (place / name).is_file():
            token = json.loads((place / name).read_text()).get("pad_token")
            if token:
                return token if isinstance(token, str) else token["content"]
    return "<|endoftext|>"
