"""`generalist data prepare --beam`: workers of a Beam pipeline write what one machine writes."""

import sys

import numpy as np
import pytest
from PIL import Image

from generalist import cli
from generalist.input_pipeline import prepare as prepares
from generalist.input_pipeline.prepare import find_damaged, open_original, prepare


@pytest.fixture
def data(tmp_path, monkeypatch):
    """LOL with five pairs to train on, two examples a shard."""
    monkeypatch.setattr(prepares, "SHARD", 2)
    rng = np.random.default_rng(0)
    for split, count in (("our485", 5), ("eval15", 1)):
        for half in ("low", "high"):
            (tmp_path / f"data/lol/{split}/{half}").mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)).save(
                    tmp_path / f"data/lol/{split}/{half}/{number}.png"
                )
    return tmp_path / "data"


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def run(data, out, options="--runner=DirectRunner"):
    return cli.main(
        ["data", "prepare", "lol", "--data-dir", str(data), "--out", str(out), f"--beam={options}"]
    )


def test_beam_writes_the_same_files_and_keeps_finished_shards(data, tmp_path):
    for split in ("train", "test"):
        prepare(open_original("lol", split, data), tmp_path / "plain")
    assert run(data, tmp_path / "beam") == 0
    written = contents(tmp_path / "beam")
    assert (
        written == contents(tmp_path / "plain")
        and "lol/1.0.0/lol-train.array_record-00002-of-00003" in written
    )

    kept, lost = (
        tmp_path / f"beam/lol/1.0.0/lol-train.array_record-{name}-of-00003"
        for name in ("00000", "00001")
    )
    lost.unlink()
    before = kept.stat().st_mtime_ns
    assert run(data, tmp_path / "beam") == 0
    assert contents(tmp_path / "beam") == written and kept.stat().st_mtime_ns == before


def test_a_damaged_file_is_named_and_the_split_stays_unreadable(data, tmp_path, capsys):
    (data / "lol/our485/low/3.png").write_bytes(b"no picture")
    assert run(data, tmp_path / "beam") != 0
    assert (
        "low/3.png: cannot be decoded (10 bytes, cut short or damaged)" in capsys.readouterr().err
    )
    assert not (tmp_path / "beam/lol/1.0.0/dataset_info.json").exists()


def test_damaged_files_are_left_out_where_asked(data, tmp_path):
    (data / "lol/our485/low/3.png").write_bytes(b"no picture")
    (data / "lol/our485/high/1.png").unlink()
    source = open_original("lol", "train", data, on_error="skip")
    damaged = find_damaged(source)
    source.leave_out(damaged)
    assert list(damaged) == [2]  # one is half a pair
    prepare(source, tmp_path / "plain")
    # Only here, since it needs Apache Beam.
    from generalist.input_pipeline.prepare_on_beam import prepare_on_beam

    options = "--runner=DirectRunner"
    prepare_on_beam(source, data, tmp_path / "beam", options, 1, damaged)
    assert contents(tmp_path / "beam") == contents(tmp_path / "plain")


def test_an_unknown_runner_is_named(data, tmp_path, capsys):
    assert run(data, tmp_path / "beam", "--runner=Nobody") != 0
    assert "Unexpected pipeline runner: Nobody" in capsys.readouterr().err


def test_without_beam_the_error_names_the_install_line(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "generalist.input_pipeline.prepare_on_beam", raising=False)
    assert run(data, tmp_path / "beam") != 0
    assert "pip install -e '.[beam]'" in capsys.readouterr().err
