"""The command line: files written, mistakes in one line, one bad image does not lose the others."""

import os
import pathlib
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import generalist
from generalist import cli
from generalist.cli import doctor


def run(line: str) -> int:
    """Runs what is typed behind `generalist`, and returns the exit code."""
    return cli.main(shlex.split(line))


@pytest.fixture
def use_tiny(tiny_model, monkeypatch):
    """Makes the commands load the shared model; returns the list of what they should load."""
    loaded = []
    monkeypatch.setattr(
        generalist, "load", lambda source: loaded.append(source) or tiny_model, raising=False
    )
    return loaded


@pytest.fixture
def photos(tmp_path):
    images = {"a": (20, 30), "b": (40, 25)}
    for name, size in images.items():
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    (tmp_path / "bad.jpg").write_text("no image")
    return tmp_path


def test_predict_writes_data_and_pictures(use_tiny, photos, tiny_workdir, capsys):
    out = photos / "out"
    images = f"{photos}/a.png {photos}/b.png"
    code = run(f"predict {images} --task depth panoptic --from {tiny_workdir} --out {out}")
    assert code == 0 and use_tiny == [str(tiny_workdir)]
    kinds = (
        "depth.png",
        "depth.render.png",
        "panoptic.png",
        "panoptic.json",
        "panoptic.render.png",
    )
    assert {file.name for file in out.iterdir()} == {
        f"{stem}.{kind}" for stem in "ab" for kind in kinds
    }
    assert np.asarray(Image.open(out / "b.depth.png")).shape == (40, 25)
    assert np.asarray(Image.open(out / "b.depth.render.png")).shape == (40, 25, 3)
    printed = capsys.readouterr().out
    trained = "nearly a regressor: one step is what it learned; one_step takes 1 step from zeros"
    for said in (f"weights: {tiny_workdir}", trained, "[1/2]", "s left", "2 of 2 images done"):
        assert said in printed


def test_one_bad_image_does_not_lose_the_others(use_tiny, photos, capsys):
    assert run(f"predict {photos}/bad.jpg {photos}/a.png --out {photos}/out") == 1
    assert (photos / "out" / "a.depth.png").is_file()
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "bad.jpg: no readable image" in printed.err
    assert "1 of 2 images done" in printed.out


def test_default_weights(use_tiny, photos, monkeypatch, tiny_workdir):
    monkeypatch.chdir(photos)
    cli.main(["predict", "a.png"])
    (photos / "runs").mkdir()
    (photos / "runs" / "multitask").symlink_to(tiny_workdir)
    cli.main(["predict", "a.png"])
    assert use_tiny == ["scenes", "runs/multitask"]


def test_mistakes_are_one_line_and_code_2(use_tiny, photos, capsys):
    Image.new("RGB", (4, 4)).save(photos / "a.bmp")
    for arguments, said in (
        (["a.png", "--task", "dept"], "Did you mean 'depth'"),
        (["a.png", "a.bmp"], "the results of both would be named a.*"),
        (["a.png", "--steps", "0"], "steps=0 must be a whole number of at least 1"),
        (["a.png", "--seed", "-1"], "seed=-1 must be a whole number of 0 to 2^32 - 1"),
    ):
        assert cli.main(["predict", *(f"{photos}/{a}" if "." in a else a for a in arguments)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.startswith("generalist: error: ") and error.count("\n") == 1


def test_missing_weights(tmp_path, capsys):
    assert cli.main(["predict", "a.png", "--from", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"no config.json in {tmp_path}" in error and error.count("\n") == 1


def test_evaluate_refuses_to_write_into_the_package(capsys):
    assert cli.main(["evaluate", "--from", "scenes"]) == 2
    assert "say where else by --out" in capsys.readouterr().err


def test_evaluate_and_report(tiny_workdir, tmp_path, monkeypatch):
    """They pass on the workdir's own config, with the data directory of today."""
    from generalist import evaluation
    from generalist.evaluation import workdir as evaluation_of_workdir

    calls = []
    monkeypatch.setattr(
        evaluation_of_workdir,
        "evaluate_workdir",
        lambda config, workdir, limit, **choices: calls.append((config, workdir, limit, choices)),
    )
    monkeypatch.setattr(evaluation, "write_report", lambda workdir: calls.append(workdir))
    monkeypatch.setenv("GENERALIST_DATA_DIR", str(tmp_path))
    assert cli.main(["evaluate", "--from", str(tiny_workdir), "--limit", "3"]) == 0
    assert cli.main(["report", "runs/a"]) == 0
    (config, workdir, limit, choices), reported = calls
    assert (config.model.target_size, config.data_dir, workdir, limit, reported) == (
        32,
        str(tmp_path),
        tiny_workdir,
        3,
        "runs/a",
    )
    assert choices == {
        "names": None,
        "out_dir": tiny_workdir / "eval" / "0",
        "native": None,
        "submission": False,
    }


def test_evaluate_on_other_data_keeps_apart_what_is_chosen(
    tiny_workdir, tmp_path, monkeypatch, capsys
):
    from generalist.evaluation import workdir as evaluation_of_workdir

    calls = []
    monkeypatch.setattr(
        evaluation_of_workdir,
        "evaluate_workdir",
        lambda config, workdir, limit, **choices: calls.append((config, choices)),
    )
    command = ["evaluate", "--from", str(tiny_workdir), "--data-dir", f"{tmp_path}/data"]
    assert cli.main(command) == 0
    choices = "--task derain --split test/Rain100H --steps 4 --native --submission"
    assert cli.main([*command, *choices.split()]) == 0
    (_, first), (config, second) = calls
    assert (config.data.source, config.data_dir, config.eval.final_split) == (
        "paper",
        f"{tmp_path}/data",
        "test/Rain100H",
    )
    assert (
        first["names"] == []
        and first["out_dir"] == tiny_workdir / "eval" / "0_data"
        and first["native"] is None
    )
    assert cli.main([*command, "--no-native"]) == 0 and calls.pop()[1]["native"] is False
    assert second == {
        "names": ["derain"],
        "out_dir": tiny_workdir / "eval" / "0_derain_data_test-Rain100H_4steps_ddim",
        "native": True,
        "submission": True,
    }
    assert (config.diffusion.steps, config.diffusion.sampler) == (4, "ddim")
    chosen = "--steps 1 --sampler dpmpp_2m --samples 8"
    assert cli.main([*command, *chosen.split()]) == 0
    assert calls.pop()[1]["out_dir"] == tiny_workdir / "eval" / "0_data_dpmpp_2m_8samples"


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ("--samples 8", "diffusion.samples 8 would all be equal: diffusion.x_init 'zeros'"),
        ("--limit -1", "--limit -1: examples are at least 0"),
    ],
)
def test_evaluate_refuses_a_sampler_that_cannot_be(tiny_workdir, capsys, choices, said):
    command = f"evaluate --from {tiny_workdir} --out /nowhere {choices}"
    assert cli.main(command.split()) == 2
    assert said in capsys.readouterr().err


def test_ceiling_of_pixels_and_of_latents(tmp_path, monkeypatch, capsys):
    from diffusers import AutoencoderKL

    monkeypatch.delenv("GENERALIST_DATA_DIR", raising=False)
    AutoencoderKL(block_out_channels=(8,), layers_per_block=1, norm_num_groups=4).save_pretrained(
        tmp_path / "vae"
    )
    out = tmp_path / "out"
    assert run(f"ceiling --size 32 --limit 2 --latent {tmp_path}/vae --out {out}") == 0
    assert {file.name for file in out.iterdir()} == {"ceiling.json", "ceiling_32.png"}
    assert "| depth    | RMSE, m " in capsys.readouterr().out
    assert run(f"ceiling --latent {tmp_path}/absent") == 2
    assert run("ceiling --limit -1") == run("ceiling --size 0") == 2
    errors = capsys.readouterr().err
    assert "absent: no such folder" in errors and "--limit -1" in errors


def test_doctor_names_what_is_wrong(use_tiny, monkeypatch, capsys):
    monkeypatch.setenv("GENERALIST_DATA_DIR", "/nowhere/at/all")
    assert cli.main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert (
        f"generalist {generalist.__version__}" in printed
        and "jax " in printed
        and "device 0" in printed
    )
    assert (
        "warning: GENERALIST_DATA_DIR=/nowhere/at/all is no folder" in printed
        and "M parameters" in printed
    )


def test_doctor_sees_an_unused_card(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert "although there is an NVIDIA card" in doctor.device_problems("cpu")[0]
    assert doctor.device_problems("gpu") == []


def test_a_closed_pipe_is_no_error(tmp_path, monkeypatch, capsys):
    """As in `generalist data check | head -1`."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert cli.main(["data", "check", "--data-dir", str(tmp_path)]) == 0
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


def test_help_shows_examples_without_loading_jax():
    code = (
        "import sys; from generalist import cli; cli.make_parser().print_help(); "
        "assert 'jax' not in sys.modules"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "generalist predict photo.jpg --task depth semantic" in printed


def test_as_a_module_with_a_real_process(photos, tiny_workdir):
    line = f"-m generalist.cli predict a.png --from {tiny_workdir} --out out"
    command = [sys.executable, *line.split()]
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(generalist.__file__).parents[1])}
    done = subprocess.run(
        command, cwd=photos, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (photos / "out" / "a.depth.png").is_file()


def test_pack_halves_the_weights_and_keeps_the_predictions(tiny_workdir, tmp_path, capsys):
    assert run(f"pack --from {tiny_workdir} --out {tmp_path}/small") == 0
    assert "MB" in capsys.readouterr().out
    sizes = [
        (folder / "model.safetensors").stat().st_size
        for folder in (tiny_workdir, tmp_path / "small")
    ]
    assert sizes[1] < 0.6 * sizes[0]
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    full, small = (
        generalist.load(folder).predict(image, "depth").depth
        for folder in (tiny_workdir, tmp_path / "small")
    )
    np.testing.assert_allclose(
        small, full, atol=0.05
    )  # metres; float16 keeps 11 bits of each weight


@pytest.mark.parametrize(
    ("command", "hint"),
    [("export", "now 'pack': generalist pack"), ("predcit", "Did you mean 'predict'?")],
)
def test_a_former_or_misspelled_command_names_the_right_one(command, hint, capsys):
    assert cli.main([command, "--out", "model"]) == 2
    error = capsys.readouterr().err
    assert hint in error and error.startswith("generalist: error: ") and error.count("\n") == 1


def test_weights_inspect_reports_every_tensor_of_a_published_folder(tmp_path, capsys):
    from diffusers import AutoencoderKL

    AutoencoderKL(block_out_channels=(8,), layers_per_block=1, norm_num_groups=4).save_pretrained(
        tmp_path
    )
    assert cli.main(["weights", "inspect", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert (
        "tensors used, 0 of other components" in said
        and "encoder.conv_in.weight -> encoder.conv_in.kernel" in said
    )
    assert cli.main(["weights", "inspect", str(tmp_path / "absent")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_weights_export_writes_what_transformers_reads(tiny_workdir, tmp_path, capsys):
    """A small model's image encoder has SigLIP's form; its UNet has parts of its own: an error."""
    import transformers

    command = ["weights", "export", "--from", str(tiny_workdir), "--out", str(tmp_path)]
    assert cli.main([*command, "--part", "image_encoder", "--dtype", "float16"]) == 0
    assert "SiglipVisionModel: " in capsys.readouterr().out
    peer, info = transformers.SiglipVisionModel.from_pretrained(
        tmp_path / "image_encoder", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and peer.config.image_size == 32
    capsys.readouterr()  # what transformers shows of its progress
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert (
        "refine.conv_out.kernel is n" in error
        and "--part image_encoder can be written" in error
        and error.count("\n") == 1
    )
