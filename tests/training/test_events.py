"""TensorBoard's event files, read by another's code: tensorboardX's protocol buffers and frames."""

import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from generalist.training.events import EventFile, crc32c


def test_crc_is_the_catalogues_value():
    """Check value of CRC-32/ISCSI in the RevEng catalogue, and of RFC 3720, B.4: 32 bytes of zeros."""
    assert (crc32c(b"123456789"), crc32c(bytes(32))) == (0xE3069283, 0x8A9136AA)


def read(folder) -> list[Event]:
    """Records of (length uint64, its crc, event, its crc)."""
    (file,) = folder.glob("events.out.tfevents.*")
    data, events = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        content, rest = data[12:12 + length], data[12 + length:]
        assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
        assert struct.unpack("<I", rest[:4])[0] == masked_crc32c(content)
        events.append(Event.FromString(content))
        data = rest[4:]
    return events


@pytest.mark.parametrize("first_step", [0, 301])
def test_another_reader_finds_steps_names_and_values(tmp_path, first_step):
    file = EventFile(tmp_path, first_step)
    file.write(4, {"loss": 2.0, "eval/miou": 0.25})
    file.write(200_000, {"loss/" + 200 * "x": float("nan")})
    version, *sessions, one, two = read(tmp_path)  # before it is closed: what is written is seen at once
    file.close()
    assert version.file_version == "brain.Event:2"
    assert [(e.step, e.session_log.status) for e in sessions] == ([(301, SessionLog.START)] if first_step else [])
    assert (one.step, {v.tag: v.simple_value for v in one.summary.value}) == (4, {"loss": 2.0, "eval/miou": 0.25})
    assert (two.step, two.summary.value[0].tag, two.summary.value[0].simple_value != 0) == (200_000, "loss/" + 200 * "x", True)
    assert abs(two.wall_time - one.wall_time) < 60 and one.wall_time > 1.7e9
