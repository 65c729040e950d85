"""One folder, one writer; what a dead process leaves behind locks nothing."""

import importlib.util
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from generalist.devices import lock, processes
from generalist.devices.lock import LOCK, InUseError, hold


def test_who_holds_a_folder_is_named_to_the_second_one(tmp_path):
    with hold(tmp_path / "run"):
        since = json.loads((tmp_path / "run" / LOCK).read_text())["since"]
        with pytest.raises(InUseError) as error, hold(tmp_path / "run"):
            pass
    assert str(error.value) == (
        f"{tmp_path / 'run'} is in use by process {os.getpid()} on {socket.gethostname()} "
        f"since {since}. Wait for it, stop it, or choose another folder."
    )


def test_nothing_is_left_of_a_lock_but_what_was_written_meanwhile(tmp_path):
    with hold(tmp_path / "a" / "run"):
        pass
    assert not (tmp_path / "a" / "run").exists()
    with hold(tmp_path / "a" / "run"):
        (tmp_path / "a" / "run" / "figures").touch()
    assert [path.name for path in (tmp_path / "a" / "run").iterdir()] == ["figures"]


HOLDING = """
import pathlib, sys, time
from generalist.devices.lock import hold
with hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InUseError, match=f"process {process.pid} on "), hold(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert json.loads((tmp_path / LOCK).read_text())["process"] == process.pid
    with hold(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_a_file_that_is_removed_between_opening_and_locking_is_not_the_lock(tmp_path, monkeypatch):
    """The one before ends at that moment; a third one must not find the folder free."""
    flock = lock.fcntl.flock

    def ends(file, how):
        monkeypatch.setattr(lock.fcntl, "flock", flock)
        (tmp_path / LOCK).unlink()
        flock(file, how)

    monkeypatch.setattr(lock.fcntl, "flock", ends)
    with hold(tmp_path), pytest.raises(InUseError, match="is in use by process"), hold(tmp_path):
        pass


def test_a_damaged_lock_file_and_a_file_system_without_locks(tmp_path, monkeypatch, caplog):
    with hold(tmp_path):
        (tmp_path / LOCK).write_text("{")
        with pytest.raises(InUseError, match="is in use by another process. "), hold(tmp_path):
            pass

    def without(file, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", without)
    with hold(tmp_path):
        assert (
            "cannot be locked ([Errno 95] Operation not supported): start no other" in caplog.text
        )


def test_a_system_without_locks_that_removes_no_open_file(tmp_path, monkeypatch):
    """Windows: the module loads without fcntl, and a run leaves nothing behind."""
    spec = importlib.util.spec_from_file_location("lock_of_windows", lock.__file__)
    module = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as hidden:
        hidden.setitem(sys.modules, "fcntl", None)
        spec.loader.exec_module(module)
    opened = []
    remove = pathlib.Path.unlink

    def unlink(path, missing_ok=False):
        if any(not file.closed for file in opened):
            raise PermissionError(13, "The process cannot access the file", str(path))
        remove(path, missing_ok)

    def keep(path, *args, **kwargs):
        opened.append(open(path, *args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(pathlib.Path, "unlink", unlink)
    monkeypatch.setattr(module, "open", keep, raising=False)
    with module.hold(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == [] and len(opened) == 1


def test_the_other_processes_hear_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "is_first", lambda: False)
    monkeypatch.setattr(processes, "agree", lambda taken: True)
    with pytest.raises(InUseError, match="in use by a run that process 0 names"), hold(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
