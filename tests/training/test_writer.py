"""metrics.jsonl across a kill: no step twice, no half line."""

import json

import pytest
from tensorboardX.proto.event_pb2 import Event

from generalist.training.writer import Writer


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def write(workdir, first_step, *steps):
    writer = Writer(workdir, first_step)
    for step in steps:
        writer.write(step, {"loss": step / 2})
    writer.close()


def test_one_line_a_write(tmp_path):
    write(tmp_path, 0, 1, 2)
    assert lines(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}]


def test_a_resumed_run_drops_what_it_will_do_again(tmp_path):
    write(tmp_path, 0, 1, 2, 3, 4)
    write(tmp_path, 2, 3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_half_line_is_dropped(tmp_path):
    write(tmp_path, 0, 1, 2)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    write(tmp_path, 2, 3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_kill_while_dropping_loses_nothing(tmp_path, monkeypatch):
    write(tmp_path, 0, 1, 2, 3)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Writer(tmp_path, 2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_lines_are_on_disk_before_the_writer_is_closed(tmp_path):
    writer = Writer(tmp_path, 0)
    writer.write(7, {"loss": 1.0})
    assert lines(tmp_path) == [{"step": 7, "loss": 1.0}]
    writer.close()


def test_tensorboard_gets_the_same_numbers(tmp_path):
    """An event file is records of (length uint64, its crc, event, its crc)."""
    write(tmp_path, 0, 4)
    (file,) = tmp_path.glob("events.out.tfevents.*")
    data, values = file.read_bytes(), {}
    while data:
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12:12 + length])
        values |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
        data = data[16 + length:]
    assert values == {("loss", 4): 2.0}
