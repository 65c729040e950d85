"""Promise: a model folder from anybody is used or refused with a message, and runs nothing."""

import json
import pathlib
import struct

import numpy as np
import pytest
import safetensors.numpy

import generalist
from generalist import cli
from generalist.files import MOST_JSON, DamagedFileError, read_json
from generalist.pretrained import WeightsError, folders, huggingface, tokenizer, weights

ONES = np.ones(2, np.float32)
INDEX = "model.safetensors.index.json"


def write(folder: pathlib.Path, **files) -> pathlib.Path:
    """Writes JSON files, with a point for the last "__" of their names."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(json.dumps(content), encoding="utf-8")
    return folder


def tensor_file(dtype: str, count: int, length: int | None = None) -> bytes:
    """A safetensors file of one tensor; `length` is what it claims of its header."""
    tensor = {"dtype": dtype, "shape": [count], "data_offsets": [0, count]}
    header = json.dumps({"w": tensor}).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(count)


def model_folder(tmp_path, tiny_workdir, config=None, metadata=None):
    """The tiny model with another config, or other strings beside its weights."""
    text = (tiny_workdir / "config.json").read_text(encoding="utf-8")
    write(tmp_path, config__json=json.loads(text) if config is None else config)
    arrays = safetensors.numpy.load_file(tiny_workdir / "model.safetensors")
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors", metadata)
    return tmp_path


# JSON and safetensors -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged"),
        (b"[]", "it holds list where an object of fields belongs"),
        (b"null", "it holds NoneType"),
        (b'{"a": ', "damaged"),
        (b'{"a": "\xff"}', "no UTF-8"),
        (b"[" * 100_000, "damaged"),
        (b'{"a": ' + b"9" * 5000 + b"}", "damaged"),
        (b"\xef\xbb\xbf[]", "it holds list"),
    ],
)
def test_json_of_another_shape_is_damaged(tmp_path, content, said):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(DamagedFileError, match=said) as error:
        read_json(file)
    assert str(file) in str(error.value)


def test_a_giant_json_is_refused_before_it_is_parsed(tmp_path):
    file = tmp_path / "config.json"
    with open(file, "wb") as sparse:
        sparse.truncate(MOST_JSON + 1)
    with pytest.raises(DamagedFileError, match="longer than 64 MiB"):
        read_json(file)


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**40, 2**63, 2**64 - 1])
def test_a_header_that_claims_another_length_is_damaged(tmp_path, length):
    file = tmp_path / "model.safetensors"
    file.write_bytes(tensor_file("U8", 4, length))
    with pytest.raises(DamagedFileError, match="damaged"):
        weights.read_tensor_file(file)


def test_types_that_numpy_lacks_are_named(tmp_path, tiny_workdir):
    (model_folder(tmp_path, tiny_workdir) / "model.safetensors").write_bytes(
        tensor_file("F8_E4M3", 4)
    )
    with pytest.raises(WeightsError, match="tensors of type F8_E4M3 are not read"):
        generalist.load(tmp_path)


def test_many_changed_files_are_read_or_damaged(tmp_path):
    """Every byte of a small file in turn, and cuts: an array or a message, nothing else."""
    rng = np.random.default_rng(0)
    good = tensor_file("U8", 4)
    file = tmp_path / "model.safetensors"
    read = 0
    for place in range(len(good)):
        for value in (*rng.integers(0, 256, 3), 0, 255):
            file.write_bytes(good[:place] + bytes([value]) + good[place + 1 :])
            try:
                read += len(weights.read_tensor_file(file))
            except DamagedFileError:
                pass
        file.write_bytes(good[:place])
        with pytest.raises(DamagedFileError):
            weights.read_tensor_file(file)
    assert read > 20


# Our own folders ----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [{"model_type": "dinov2"}, [], None, 3])
def test_a_folder_of_another_program_is_refused(tmp_path, tiny_workdir, content, capsys):
    folder = model_folder(tmp_path / "theirs", tiny_workdir, config=content or [])
    with pytest.raises(
        ValueError, match="theirs cannot be used: the config has no field seed|an object of fields"
    ):
        generalist.load(folder)

    # Neither is it packed.
    assert cli.main(["pack", "--from", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    error = capsys.readouterr().err
    assert error.startswith("generalist: error: ") and "Traceback" not in error


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"codecs": "[1]"}, r"its codecs are '\[1\]', no versions by task"),
        ({"codecs": "{"}, "no versions by task"),
        ({"codecs": '{"depth": null}'}, "depth"),
    ],
)
def test_codecs_of_another_shape_are_refused(tmp_path, tiny_workdir, metadata, said):
    with pytest.raises(ValueError, match=said):
        generalist.load(model_folder(tmp_path, tiny_workdir, metadata=metadata))


@pytest.mark.parametrize("step", ["../../escaped", "/etc", "", "1e3", "-1", "9" * 40])
def test_a_step_that_is_no_number_names_no_folder(tmp_path, tiny_workdir, step, capsys):
    """It names the folder of an evaluation's results, which would lie anywhere."""
    folder = model_folder(tmp_path / "model", tiny_workdir, metadata={"step": step})
    with pytest.raises(WeightsError, match="is no number"):
        weights.read_step(folder)
    assert cli.main(["evaluate", "--from", str(folder), "--limit", "1"]) == 2
    assert "is no number" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_weights_that_give_nan_are_refused_by_predict(tmp_path, tiny_workdir, capsys):
    from generalist.pictures import encode_png

    folder = model_folder(tmp_path / "model", tiny_workdir)
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    broken = {
        path: value * np.nan if "conv_out" in path else value for path, value in arrays.items()
    }
    safetensors.numpy.save_file(broken, folder / "model.safetensors")
    (tmp_path / "photo.png").write_bytes(encode_png(np.zeros((32, 32, 3), np.uint8)))

    out = tmp_path / "out"
    command = ["predict", str(tmp_path / "photo.png"), "--from", str(folder), "--out", str(out)]
    assert cli.main([*command, "--task", "depth", "denoise"]) == 1
    assert (
        "painted nan or inf for depth, denoise: the weights are broken" in capsys.readouterr().err
    )
    assert not out.exists()


def test_a_value_that_float16_cannot_hold_is_not_packed(tmp_path):
    with pytest.raises(WeightsError, match="unet.a: has values that float16 cannot hold"):
        weights.save_weights(tmp_path, {"unet.a": np.float32([1e6])}, {}, np.float16)
    assert list(tmp_path.iterdir()) == []


# Folders of transformers and diffusers ------------------------------------------------------------


def test_a_tensor_in_two_shards_is_read_from_the_one_that_the_index_names(tmp_path):
    stale = {"w": np.full(2, 9, np.float32), "v": ONES}
    safetensors.numpy.save_file({"w": ONES}, tmp_path / "part-1.safetensors")
    safetensors.numpy.save_file(stale, tmp_path / "part-2.safetensors")
    for shard, expected in (("part-1", 1.0), ("part-2", 9.0)):
        places = {"w": f"{shard}.safetensors", "v": "part-2.safetensors"}
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}), encoding="utf-8")
        assert folders.read_tensors(tmp_path)["w"].tolist() == [expected, expected]


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ([], "it holds list"),
        ({}, "its weight_map is no file name a tensor"),
        ({"weight_map": []}, "its weight_map is no file name a tensor"),
        ({"weight_map": {"w": 1}}, "its weight_map is no file name a tensor"),
        ({"weight_map": {"w": "../part-1.safetensors"}}, "which does not lie in its folder"),
        ({"weight_map": {"w": "/etc/passwd"}}, "which does not lie in its folder"),
        ({"weight_map": {"w": "a/../part-1.safetensors"}}, "which does not lie in its folder"),
        ({"weight_map": {"w": "..\\part-1.safetensors"}}, "which does not lie in its folder"),
        ({"weight_map": {"w": ""}}, "damaged"),
        ({"weight_map": {"w": ".."}}, "damaged"),
        ({"weight_map": {"w": "absent.safetensors"}}, "missing, though the index"),
    ],
)
def test_an_index_of_another_shape_or_with_paths_is_refused(tmp_path, index, said):
    safetensors.numpy.save_file({"w": ONES}, tmp_path / "part-1.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(WeightsError, match=said):
        folders.read_tensors(folder)


CLIP = {"model_type": "clip_vision_model", "hidden_size": 16, "num_attention_heads": 2}
UNET = {"_class_name": "UNet2DConditionModel", "block_out_channels": [8], "norm_num_groups": 4}
KL = {"_class_name": "AutoencoderKL", "block_out_channels": [8], "norm_num_groups": 4}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ([], "an object of fields"),
        ({"_class_name": [1]}, "no image encoder that is read here"),
        ({"model_type": {}}, "no image encoder"),
        (CLIP | {"hidden_size": "wide"}, "config.json has hidden_size = 'wide': allowed is 1 to"),
        (CLIP | {"hidden_size": 10**12}, "allowed is 1 to 1048576"),
        (CLIP | {"num_hidden_layers": 10**9}, "allowed is 1 to 1024"),
        (CLIP | {"patch_size": 0}, "config.json has patch_size = 0"),
        (CLIP | {"hidden_act": []}, "hidden_act '\\[\\]' is not supported"),
        (CLIP | {"layer_norm_eps": None}, "config.json has layer_norm_eps = None"),
        (CLIP | {"vision_config": 3}, "config.json has vision_config = 3"),
        (UNET | {"block_out_channels": 8}, "block_out_channels = 8: allowed is a list of numbers"),
        (UNET | {"block_out_channels": [8] * 99}, "a list of numbers"),
        (
            UNET | {"down_block_types": [1]},
            "down_block_types = \\[1\\]: allowed is a list of texts",
        ),
        (UNET | {"attention_head_dim": [2, 2]}, "of different widths"),
        (UNET | {"attention_head_dim": [99]}, "describes no UNet"),
        (UNET | {"norm_num_groups": 3}, "describes no UNet"),
        (KL | {"latent_channels": True}, "latent_channels = True: allowed is 1 to"),
        (KL | {"norm_num_groups": 3}, "describes no Autoencoder"),
    ],
)
def test_a_published_config_of_another_shape_is_refused(tmp_path, config, said):
    write(tmp_path, config__json=config)
    with pytest.raises(WeightsError, match=said):
        huggingface.read_published(tmp_path)


@pytest.mark.parametrize(
    "content", [[], {"image_mean": 3, "image_std": 3}, {"image_mean": [1] * 3}]
)
def test_a_preprocessor_of_another_shape_is_refused_or_says_nothing(tmp_path, content):
    write(tmp_path, preprocessor_config__json=content)
    if content and "image_std" not in content:
        assert folders.read_normalization(tmp_path) is None
        return
    with pytest.raises(WeightsError, match="Fetch the file again"):
        folders.read_normalization(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("vocab__json", [], "damaged tokenizer files"),
        ("vocab__json", {"a": "b"}, "damaged tokenizer files"),
        ("vocab__json", {}, "damaged tokenizer files"),
        ("tokenizer__json", [], "damaged tokenizer files"),
        ("tokenizer__json", {"model": 3}, "damaged tokenizer files"),
        ("tokenizer_config__json", [], "an object of fields"),
        ("tokenizer_config__json", {"pad_token": "absent"}, "'absent' is not in the vocabulary"),
        ("tokenizer_config__json", {"pad_token": {"content": 3}}, "'3' is not in the vocabulary"),
    ],
)
def test_tokenizer_files_of_another_shape_are_refused(tmp_path, name, content, said):
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "a": 3}
    write(tmp_path, vocab__json=vocabulary)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    assert tokenizer.read_tokenizer(tmp_path, 5)(["a"]).shape == (1, 5)
    write(tmp_path, **{name: content})
    with pytest.raises(WeightsError, match=said):
        tokenizer.read_tokenizer(tmp_path, 5)


def test_a_giant_tokenizer_is_refused_before_it_is_parsed(tmp_path):
    with open(tmp_path / "tokenizer.json", "wb") as sparse:
        sparse.truncate(MOST_JSON + 1)
    with pytest.raises(WeightsError, match="longer than 64 MiB"):
        tokenizer.read_tokenizer(tmp_path, 5)


def test_only_data_are_fetched_from_the_hub(tmp_path, monkeypatch):
    import fnmatch

    import huggingface_hub

    patterns = []

    def snapshot_download(name, allow_patterns):
        patterns.extend(allow_patterns)
        return tmp_path

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    write(tmp_path, config__json={})
    folders.find_folder("org/name", "unet")

    def fetched(name):
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)

    assert all(map(fetched, ("config.json", "unet/a.safetensors", "tokenizer/merges.txt")))
    files = (
        "modeling.py",
        "pytorch_model.bin",
        "unet/a.ckpt",
        "a.pt",
        "a.pkl",
        "vae/a.safetensors.py",
    )
    assert not any(map(fetched, files))
