"""Configs of earlier releases are read with today's names, and mean the same."""

import json

import pytest

from generalist.configs import common
from generalist.pretrained.old_configs import rename_fields
from generalist.pretrained.weights import CONFIG, SHIPPED


def paths(tree: dict, prefix: str = "") -> set[str]:
    """Returns the dotted paths of all fields but those that name tasks or parts of a model."""
    found = set()
    for name, value in tree.items():
        if isinstance(value, dict) and name not in ("weights", "loss_weights"):
            found |= paths(value, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def test_the_shipped_config_has_the_fields_of_today():
    saved = json.loads((SHIPPED["scenes"] / CONFIG).read_text())
    today = json.loads(json.dumps(common.scenes().to_dict()))
    assert "accumulate" in saved["optimizer"]  # it was written by an earlier release
    assert paths(rename_fields(saved)) == paths(today)


def test_hashed_words_had_eight_positions():
    """Else a run of an earlier version would not find itself again."""
    old = {"model": {"text_encoder": {"dim": 64}}}
    assert rename_fields(old)["model"]["text_encoder"] == {"dim": 64, "length": 8}
    t5 = {"model": {"text_encoder": {"dim": 64, "kind": "t5"}}}
    assert rename_fields(t5) == t5


def test_numbers_get_their_names_and_values_their_new_words():
    old = {
        "seed": 3,
        "tasks": {"timesteps": {"depth": [0.5, 1.0, 0.25]}},
        "data": {"augment": {"jitter": [0.4, 0.3, 0.2, 0.1], "jitter_share": 0.8}},
        "diffusion": {"prediction": "v", "start": "noise"},
        "optimizer": {"accumulate": 4},
        "eval": {"split": "val"},
    }
    new = {
        "seed": 3,
        "tasks": {"timesteps": {"depth": {"mean": 0.5, "std": 1.0, "p_pure_noise": 0.25}}},
        "data": {
            "augment": {
                "jitter": {"brightness": 0.4, "contrast": 0.3, "saturation": 0.2, "hue": 0.1},
                "jitter_probability": 0.8,
                "native": 0.0,
            },
            "scenes_seed": -1,
            "scenes_captions": "own",
        },
        "diffusion": {
            "prediction_type": "v",
            "x_init": "gaussian",
            "unet_time": "linear",
            "samples": 1,
        },
        "optimizer": {"accum_steps": 4},
        "eval": {"split": "val", "final_split": "val", "before": False},
    }
    assert rename_fields(old) == new
    assert rename_fields(new) == new
    assert old["diffusion"] == {"prediction": "v", "start": "noise"}  # the argument is left alone


@pytest.mark.parametrize("x_init", ["zeros", "gaussian"])
def test_todays_values_stay(x_init):
    today = {"diffusion": {"x_init": x_init, "unet_time": "equal_logsnr", "samples": 4}}
    assert rename_fields(today) == today


@pytest.mark.parametrize(
    "content", [[], None, 3, {"data": []}, {"data": {"augment": {"jitter": [1]}}, "eval": None}]
)
def test_what_is_no_config_is_left_for_the_check_of_configs(content):
    assert type(rename_fields(content)) is type(content)
