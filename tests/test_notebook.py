"""The notebook runs from first cell to last, and its model predicts the same after reloading."""

import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOK = pathlib.Path(__file__).parents[1] / "notebooks" / "generalist.ipynb"
SECONDS = 1200  # a cell may take: long enough for a busy machine


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_is_valid_and_clean(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_runs_from_start_to_end(notebook, tiny_config, tiny_workdir, tmp_path, monkeypatch):
    monkeypatch.setenv("GENERALIST_NOTEBOOK_STEPS", "2")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    (train,) = [i for i, cell in enumerate(notebook.cells) if "train_and_evaluate(" in cell.source]
    tiny_config.model.init_from = str(tiny_workdir)
    tiny_config.eval.tasks = ("depth", "semantic", "instance", "denoise")
    small = {
        name: getattr(tiny_config, name).to_dict()
        for name in ("data", "model", "optimizer", "eval")
    } | {"batch_size": 4}
    notebook.cells.insert(train, nbformat.v4.new_code_cell(f"config.update({small})"))
    nbclient.NotebookClient(
        notebook, timeout=SECONDS, resources={"metadata": {"path": tmp_path}}
    ).execute()

    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "step 2/2" in printed and "the reloaded model predicts the same" in printed
    assert {path.name for path in (tmp_path / "generalist-model").iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    assert (tmp_path / "predictions" / "depth.png").stat().st_size > 0
    pictures = [
        o
        for cell in notebook.cells
        for o in cell.get("outputs", [])
        if "image/png" in o.get("data", {})
    ]
    assert len(pictures) >= 5  # at least a panel, and the four predictions
