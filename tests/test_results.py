"""Promise: the figures of the pages are those of the logs in results/."""

import json
import pathlib
import re

import ablations
import pytest

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "results"
PAGE = (RESULTS / "README.md").read_text()

# The name of a figure in the tables, and its key behind the task's name.
KEYS = {
    "RMSE, m": "rmse",
    "delta1": "delta1",
    "mIoU": "miou",
    "PQ": "pq",
    "PQ (class-agnostic)": "pq",
    "SQ": "sq",
    "RQ": "rq",
    "PSNR, dB": "psnr",
    "SSIM": "ssim",
}


def metrics(study: str, variant: str | None = None) -> dict[str, float]:
    """The metrics of a run."""
    summary = json.loads((RESULTS / study / "summary.json").read_text())
    return (summary[variant] if variant else summary)["metrics"]


def shown(key: str, value: float | None, gain: float | None = None) -> str:
    """A figure as the tables print it."""
    if value is None:
        return "exact" if key in ("psnr", "ssim") else "not measured"
    if key in ("miou", "pq", "sq", "rq", "delta1"):
        return f"{100 * value:.1f} %"
    if key == "psnr":
        return f"{value:.2f}" if gain is None else f"{value:.2f} (+{gain:.1f})"
    return f"{value:.3f}"


def rows(text: str, head: str) -> list[list[str]]:
    """The rows of the first table of `text` whose head begins with `head`, as lists of cells."""
    table = text.split(head, 1)[1].split("\n\n", 1)[0]
    return [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in table.split("\n")[2:]
    ]


@pytest.mark.parametrize(
    ("page", "head", "studies"),
    [
        ("README.md", "| task | figure | demo", ["scenes_demo", "scenes_from_scratch"]),
        ("results/README.md", "| task | figure | demo", ["scenes_demo", "scenes_from_scratch"]),
        ("MODEL_CARD.md", "| task | figure | shipped", ["shipped_weights"]),
    ],
)
def test_tables_of_the_scenes_are_those_of_their_logs(page, head, studies):
    found = [metrics(study) for study in studies]
    for task, figure, *cells in rows((ROOT / page).read_text(), head):
        key = KEYS[figure]
        trivial = found[0][f"trivial/{task}/{key}"]
        expected = []
        for values in found:
            value = values[f"{task}/{key}"]
            gain = None if value is None else value - trivial
            expected.append(shown(key, value, gain))
        expected.append(shown(key, trivial))
        expected.append(shown(key, found[0][f"ceiling/{task}/{key}"]))
        assert cells == expected, (task, figure)


STUDIES = sorted(path.parent for path in RESULTS.glob("ablations_equal_steps/*/summary.json"))


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_tables_of_the_ablations_are_those_of_their_logs(folder):
    text = PAGE.split(f"### {folder.name}\n", 1)[1]
    head = "| variant | steps | "
    figures = text.split(head, 1)[1].split("\n", 1)[0].strip(" |").split(" | ")
    summary = json.loads((folder / "summary.json").read_text())
    table = {variant: cells for variant, _, *cells in rows(text, head)}
    assert set(table) - {"trivial"} == set(summary)
    for variant, run in summary.items():
        expected = []
        for figure in figures:
            value = run["metrics"][figure]
            ratio = figure.endswith(("miou", "pq"))
            expected.append(f"{100 * value:.1f} %" if ratio else f"{value:.2f}")
        assert table[variant] == expected, variant


def test_tables_of_the_studies_are_those_of_their_files():
    """All seeds of a study are of one code: the table is what its program makes of them."""
    for file in RESULTS.glob("ablations/*/table.md"):
        study = file.parent.name
        expected = ablations.table(study, ablations.read_results(study, file.parents[1]))
        assert file.read_text() == f"{expected}\n", study


def test_every_folder_is_in_the_page():
    named = set(re.findall(r"^\| [^|]+ \| `(\w+)` \|", PAGE, re.M))
    assert named == {path.name for path in RESULTS.iterdir() if path.is_dir()}


def test_every_config_has_its_base():
    for path in RESULTS.rglob("summary.json"):
        summary = json.loads(path.read_text())
        runs = [summary] if "metrics" in summary else summary.values()
        for run in runs:
            assert (path.parent / run["config"]["base"]).resolve().is_file()
