"""The card as Markdown: what the figures are, and of what."""

import importlib.util
import json
import re
import sys
import types

from generalist.evaluation import record
from generalist.evaluation.record import markdown


def test_the_card_for_people_says_what_the_other_files_say(finished):
    text, card = (
        (finished.folder / "card.md").read_text(),
        json.loads((finished.folder / "card.json").read_text()),
    )
    assert text == markdown(card, finished.metrics)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    miou = next(row for row in rows if row[:2] == ["semantic", "mIoU"])
    assert miou[2:5] == [
        f"{100 * finished.metrics[kind + 'semantic/miou']:.1f}"
        for kind in ("", "trivial/", "ceiling/")
    ]
    data = next(row for row in rows if row[:2] == ["derain", "rgb-skimage"])
    assert data[3:7] == ["ScenesSource", "val", "3", card["tasks"]["derain"]["keys_sha256"][:16]]
    assert (
        "- weights: an <oracle>" in text
        and f"numpy {card['versions']['numpy']}" in text
        and "- `_painter`: " in text
    )
    assert re.search(r"- peak memory: \d+\.\d\d GiB of the process, batches of 2", text)


def test_every_table_is_one(finished):
    for block in (finished.folder / "card.md").read_text().split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            assert (
                len({line.count("|") for line in lines}) == 1
                and len({len(line) for line in lines}) == 1
            )
            assert set(lines[1]) <= set("|-: ")


def test_a_system_that_counts_no_memory(monkeypatch):
    """Windows: the module loads without `resource`, and the card says that nothing is counted."""
    spec = importlib.util.spec_from_file_location("record_of_windows", record.__file__)
    module = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as hidden:
        hidden.setitem(sys.modules, "resource", None)
        spec.loader.exec_module(module)
    device = types.SimpleNamespace(memory_stats=lambda: None)
    assert module._peak_memory(device) == {
        "of": "the process, which this system does not count",
        "bytes": 0,
    }
    assert record._peak_memory(device)["bytes"] > 2**20
