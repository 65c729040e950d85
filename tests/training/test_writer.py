"""metrics.jsonl across a kill: no step twice, no half line."""

import json

import pytest
from tensorboardX.proto.event_pb2 import Event

from generalist.training.writer import Writer


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def write(workdir, first_step, *steps):
    writer = Writer(workdir, first_step, 100)
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


@pytest.mark.parametrize(
    "line", [b'{"step": 2, "lo', b'{"stew": 2}\n', b'{"step": 2, "lo\xffs": 1.0}\n', b"2\n"]
)
def test_a_half_or_damaged_line_is_dropped(tmp_path, line):
    write(tmp_path, 0, 1, 2)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(line)
    write(tmp_path, 2, 3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_kill_while_dropping_loses_nothing(tmp_path, monkeypatch):
    write(tmp_path, 0, 1, 2, 3)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Writer(tmp_path, 2, 100)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_lines_are_on_disk_before_the_writer_is_closed(tmp_path):
    writer = Writer(tmp_path, 0, 100)
    writer.write(7, {"loss": 1.0})
    assert lines(tmp_path) == [{"step": 7, "loss": 1.0}]
    writer.close()


def test_a_finished_run_started_again_writes_its_final_evaluation_once(tmp_path):
    for first_step in (0, 4):
        writer = Writer(tmp_path, first_step, total_steps=4)
        if not first_step:
            writer.write(
                2, {"eval/psnr": 1.0}
            )  # of an evaluation on the way, which is not repeated
            writer.write(4, {"loss": 0.5})
        writer.write(4, {"final/psnr": 2.0})
        writer.close()
    assert lines(tmp_path) == [
        {"step": 2, "eval/psnr": 1.0},
        {"step": 4, "loss": 0.5},
        {"step": 4, "final/psnr": 2.0},
    ]


def events(file):
    """The events of a file: records of (length uint64, its crc, event, its crc)."""
    data = file.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    write(tmp_path, 0, 4)
    (file,) = tmp_path.glob("events.out.tfevents.*")
    assert {
        (v.tag, event.step): v.simple_value for event in events(file) for v in event.summary.value
    } == {("loss", 4): 2.0}


def test_tensorboard_keeps_the_step_that_a_run_goes_on_from(tmp_path):
    write(tmp_path, 0, 3)
    (first,) = tmp_path.glob("events.out.tfevents.*")
    first = first.rename(tmp_path / "first")  # both may be of one second and would have one name
    write(tmp_path, 3, 4)
    (second,) = tmp_path.glob("events.out.tfevents.*")
    assert [event.step for event in events(second) if event.HasField("session_log")] == [
        4
    ]  # TensorBoard drops the first file's points from there on
    assert all(not event.HasField("session_log") for event in events(first))
