"""What a run prints: each line once, whatever other libraries do with the root logger."""

import logging

from generalist.console import Progress, show_log


def test_a_line_is_printed_once(capsys):
    root = logging.StreamHandler()  # as absl adds it
    logging.getLogger().addHandler(root)
    try:
        show_log()
        show_log()
        logging.getLogger("generalist").info("a line")
    finally:
        logging.getLogger().removeHandler(root)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("a line\n", "")


def test_progress_has_rate_and_eta(capsys, monkeypatch):
    monkeypatch.setattr(Progress, "EVERY_SECONDS", 0.0)
    show_log()
    progress = Progress("eval", 8, done=4)
    progress.add(2, "depth")
    progress.add(2)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("eval 6/8 examples (depth) | ") and "/s | ETA " in first
    assert last.startswith("eval 8/8 examples | ") and last.endswith("ETA 0 s")
