"""Weights on disk: what comes back, and what is said of files that are not right."""

import errno
import json

import numpy as np
import pytest

from generalist.pretrained import weights
from generalist.pretrained.weights import WeightsError, check_fit, load_weights, save_weights

PARAMETERS = {
    "unet.kernel": np.random.default_rng(0).standard_normal((40, 50), np.float32),
    "unet.bias": np.array([1 / 3], np.float32),
}


@pytest.fixture
def folder(tmp_path):
    """A whole model folder."""
    (tmp_path / "config.json").write_text(json.dumps({"seed": 1}))
    save_weights(tmp_path, PARAMETERS, {"step": "7"})
    return tmp_path


@pytest.mark.parametrize("given", ["", "model.safetensors", "config.json"])
def test_round_trip_from_the_folder_or_a_file_in_it(folder, given):
    config, loaded = load_weights(folder / given)
    assert config == {"seed": 1}
    assert loaded.keys() == PARAMETERS.keys()
    for path, value in PARAMETERS.items():
        assert loaded[path].dtype == np.float32
        np.testing.assert_array_equal(loaded[path], value)


def test_metadata_comes_back(folder):
    assert weights.read_metadata(folder)["step"] == "7"


def test_float16_halves_the_file_and_loads_as_float32(folder):
    full = (folder / "model.safetensors").stat().st_size
    save_weights(folder, PARAMETERS, {}, dtype=np.float16)
    assert (folder / "model.safetensors").stat().st_size < 0.55 * full
    _, loaded = load_weights(folder)
    for path, value in PARAMETERS.items():
        assert loaded[path].dtype == np.float32
        np.testing.assert_array_equal(loaded[path], value.astype(np.float16))


def test_other_layouts_are_saved_by_value(folder):
    save_weights(folder, {"a": PARAMETERS["unet.kernel"].T}, {})
    np.testing.assert_array_equal(load_weights(folder)[1]["a"], PARAMETERS["unet.kernel"].T)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", b"no safetensors file"),
        ("config.json", b'{"seed": '),
        ("config.json", b"\xff\xfe"),
    ],
)
def test_damaged_files_are_named(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{folder}: damaged {name} .*Restore the folder"):
        load_weights(folder)


@pytest.mark.parametrize("place", [-1, -2_000, -8_000])
def test_a_flipped_bit_is_found(folder, place):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[place] ^= 4
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="model.safetensors: damaged, its checksum differs"):
        load_weights(folder)


def test_a_truncated_file_is_damaged(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="damaged"):
        load_weights(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_without_a_file_says_which_and_what_to_give(folder, name):
    (folder / name).unlink()
    with pytest.raises(
        WeightsError, match=f"no {name} in {folder}.*training workdir.*shipped weights: scenes"
    ):
        load_weights(folder)


def test_a_misspelt_name_is_said_back():
    with pytest.raises(WeightsError, match="scnes: no config.json in .*shipped weights: scenes"):
        load_weights("scnes")


def test_fitting_weights_pass():
    assert check_fit(PARAMETERS, PARAMETERS, "here") is None


def test_everything_that_does_not_fit_is_listed():
    given = {"unet.kernel": PARAMETERS["unet.kernel"].T, "unet.old": PARAMETERS["unet.bias"]}
    with pytest.raises(WeightsError) as error:
        check_fit(given, PARAMETERS, "model.init_from=here")
    assert str(error.value).splitlines()[:-1] == [
        "model.init_from=here does not fit the model of this config:",
        "  missing: unet.bias (1,)",
        "  left over: unet.old",
        "  shape of unet.kernel: (50, 40) in the file, (40, 50) in the model",
    ]


def test_a_long_list_is_cut():
    with pytest.raises(WeightsError, match=r"missing: p19 .*\n  \.\.\. and 5 more\n"):
        check_fit({}, {f"p{i}": np.zeros(1) for i in range(25)}, "here")


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(folder, monkeypatch, function):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    monkeypatch.setattr(weights.os, function, full)
    with pytest.raises(OSError, match="No space left on device: .*model.safetensors"):
        save_weights(folder, {"other": np.zeros(3, np.float32)}, {})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
