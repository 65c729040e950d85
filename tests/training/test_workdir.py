"""The folder of a run: one config, and weights for use."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from generalist.pretrained.weights import WeightsError, load_weights
from generalist.recipe import Recipe
from generalist.training.checkpoint import CheckpointError
from generalist.training.state import State
from generalist.training.workdir import (
    WorkdirError,
    check_workdir,
    flatten,
    save_model,
    write_facts,
    write_parameters,
)


def test_a_new_workdir_holds_config_and_facts(tiny_config, tmp_path):
    tiny_config.diffusion.unet_time = "linear"  # what "auto" would become
    workdir = check_workdir(str(tmp_path / "a" / "run"), Recipe.from_config(tiny_config))
    assert not workdir.exists()  # nothing is left of a run that cannot start
    write_facts(workdir, Recipe.from_config(tiny_config))
    assert json.loads((workdir / "config.json").read_text()) == json.loads(
        json.dumps(tiny_config.to_dict())
    )
    facts = json.loads((workdir / "run.json").read_text())
    assert facts["devices"] >= 1 and "jax" in facts["versions"] and facts["command"]


def test_a_file_is_no_workdir(tmp_path, tiny_config):
    (tmp_path / "a").write_text("mine", encoding="utf-8")
    for path in (tmp_path / "a", tmp_path / "a" / "run"):
        with pytest.raises(WorkdirError, match=f"--workdir={path}: {tmp_path}/a is a file, give"):
            check_workdir(path, Recipe.from_config(tiny_config))
    assert (tmp_path / "a").read_text(encoding="utf-8") == "mine"


def test_the_same_config_reopens_it(tiny_config, tmp_path):
    write_facts(tmp_path, Recipe.from_config(tiny_config))
    assert check_workdir(str(tmp_path), Recipe.from_config(tiny_config)) == tmp_path


def test_another_config_is_an_error_that_lists_every_difference(tiny_config, tmp_path):
    write_facts(tmp_path, Recipe.from_config(tiny_config))
    tiny_config.optimizer.lr, tiny_config.seed = 0.5, 7
    tiny_config.model.unet.channels = (16, 48)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(WorkdirError, match="holds a run with another config") as error:
        check_workdir(tmp_path, Recipe.from_config(tiny_config))
    rows = str(error.value).splitlines()[1:-1]
    assert rows == [
        "  model.unet.channels: [16, 32] in the workdir, [16, 48] now",
        "  optimizer.lr: 0.002 in the workdir, 0.5 now",
        "  seed: 0 in the workdir, 7 now",
    ]
    assert (tmp_path / "config.json").read_text() == before


def test_a_field_that_was_not_there_is_a_difference(tiny_config, tmp_path):
    write_facts(tmp_path, Recipe.from_config(tiny_config))
    tiny_config.model.image_encoder.inner = 64
    with pytest.raises(
        WorkdirError, match="model.image_encoder.inner: None in the workdir, 64 now"
    ):
        check_workdir(tmp_path, Recipe.from_config(tiny_config))


def test_what_does_not_change_the_computation_is_free(tiny_config, tmp_path):
    write_facts(tmp_path, Recipe.from_config(tiny_config))
    tiny_config.checkpoint.every_steps = tiny_config.eval.examples = tiny_config.log.every_steps = (
        tiny_config.data.threads
    ) = 9
    tiny_config.data_dir = "/elsewhere"
    recipe = Recipe.from_config(tiny_config)
    write_facts(check_workdir(tmp_path, recipe), recipe)
    assert json.loads((tmp_path / "config.json").read_text())["log"]["every_steps"] == 9


@pytest.mark.parametrize("content", [b"{", b'{"a": 1', b"\xff\xfe\x00"])
def test_a_damaged_config_is_named(tiny_config, tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="config.json cannot be read"):
        check_workdir(tmp_path, Recipe.from_config(tiny_config))


def test_every_parameter_is_listed_with_its_sharding(tmp_path):
    mesh = jax.make_mesh((1, 1), ("data", "fsdp"))
    kernel = jax.device_put(jnp.zeros((3, 8)), jax.NamedSharding(mesh, jax.P(None, "fsdp")))
    write_parameters(
        tmp_path,
        {
            "trained": {"unet.kernel": kernel},
            "frozen": {"text_encoder.bias": jnp.zeros(5, jnp.bfloat16)},
        },
    )
    trained, frozen = (tmp_path / "parameters.txt").read_text().split("frozen")

    def cells(table, name):
        (line,) = [line for line in table.splitlines() if name in line]
        return [cell.strip() for cell in line.strip("| ").split("|")]

    assert (
        cells(trained, "unet.kernel")
        == ["unet.kernel", "(3, 8)", "float32", "24", "(None, 'fsdp')"]
        and "Total: 24" in trained
    )
    assert (
        cells(frozen, "text_encoder.bias")[:4] == ["text_encoder.bias", "(5,)", "bfloat16", "5"]
        and "Total: 5" in frozen
    )


def test_a_saved_model_is_a_model_folder_of_the_averaged_weights(tiny_config, tmp_path):
    write_facts(tmp_path, Recipe.from_config(tiny_config))
    state = State(jnp.int32(12), {}, {"unet.a": jnp.arange(3.0)}, {"b": jnp.zeros(2)}, ())
    save_model(tmp_path, Recipe.from_config(tiny_config), state)
    config, weights = load_weights(tmp_path)
    assert config["total_steps"] == tiny_config.total_steps
    np.testing.assert_array_equal(weights["unet.a"], [0, 1, 2])
    np.testing.assert_array_equal(weights["b"], [0, 0])


def test_a_run_without_weights_for_use_says_when_it_writes_them(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(
        WeightsError, match="has checkpoints, but no model.safetensors yet.*SIGTERM"
    ):
        load_weights(tmp_path)


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": (2,)}}, "e": None}) == {
        "a.b": 1,
        "a.c.d": (2,),
        "e": None,
    }
