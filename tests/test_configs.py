"""The configs: every ablation changes what it says, of the recipe it starts from."""

import importlib

import pytest

from generalist.configs import common
from generalist.training.workdir import flatten

STUDIES = {
    "conditioning": {
        "cross_attention": {"model.concatenate_image": False, "model.aligned_features": False},
        "concatenate": {"model.aligned_features": False}, "aligned": {"model.concatenate_image": False}, "both": {}},
    "initialisation": {"scratch": {}, "pretrained": {"model.init_from": "scenes"}},
    "image_encoder": {
        "tuned": {}, "frozen": {"optimizer.frozen": (r"^text_encoder\.", r"^image_encoder\.")}, "coarse": {"model.image_encoder.patch": 16},
        "deep": {"model.image_encoder.depth": 4}},
    "resolution": {
        str(size): {"data.scenes_size": 256, "data.image_size": size, "model.target_size": size, "model.unet.patch": size // 16}
        for size in (64, 128, 256)},
    "latent_vs_pixel": {
        "pixel": {"diffusion.prototype_weight": 0.0, "model.unet.refine": 0},
        "latent": {"diffusion.prototype_weight": 0.0, "model.unet.refine": 0, "model.unet.patch": 1,
                   "model.init_from": "autoencoder=scenes_autoencoder"}}}


@pytest.mark.parametrize(("study", "variant"), [(s, v) for s, variants in STUDIES.items() for v in variants])
def test_an_ablation_changes_what_it_says_and_nothing_else(study, variant):
    module = importlib.import_module(f"generalist.configs.ablations.{study}")
    assert list(module.VARIANTS) == list(STUDIES[study])
    recipe, config = flatten(common.scenes(scratch=True).to_dict()), flatten(module.get_config(variant).to_dict())
    changed = {field for field in recipe if recipe[field] != config[field]}
    expected = {field for field, value in STUDIES[study][variant].items() if value != recipe[field]}
    assert changed == expected
    assert {field: config[field] for field in STUDIES[study][variant]} == STUDIES[study][variant]


@pytest.mark.parametrize("study", STUDIES)
def test_an_ablation_of_the_full_size_model_and_a_wrong_name(study, monkeypatch):
    monkeypatch.delenv("GENERALIST_DATA_DIR", raising=False)
    module = importlib.import_module(f"generalist.configs.ablations.{study}")
    first = next(iter(STUDIES[study]))
    assert module.get_config(f"{first},paper").data.source == "paper"
    with pytest.raises(ValueError, match=f"unknown variant 'other': choose one of {first}, "):
        module.get_config("other")
