"""What a run says about its data."""

import types

from generalist.training import setup


def test_damaged_files_are_counted_by_task_and_scenes_have_none():
    said = []
    sources = {
        "depth": types.SimpleNamespace(damaged={"a.png": "empty", "b.png": "cut short"}),
        "derain": types.SimpleNamespace(damaged={}),
        "light": object(),
    }
    setup.report_damaged(sources, said.append)
    assert said == ["damaged files left out of training: depth 2; each was named above"]
    setup.report_damaged({"derain": sources["derain"]}, said.append)
    assert len(said) == 1
