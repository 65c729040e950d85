import base64
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from generalist.evaluation import tables, write_report
from generalist.evaluation.curves import format_tick, line_chart, linear_axis, log_axis
from generalist.tasks import SCENES_TASKS

VOID = {"meta", "img", "line", "circle", "polyline"}


class Balance(HTMLParser):
    """Collects tags; an end tag must close the last open one."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.resources = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.resources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("report") / "a <b> run"
    shutil.copytree(finished.workdir, workdir)
    lines = [
        {
            "step": s,
            "loss": 1 / s,
            "loss/depth": 2 / s,
            "loss/light": 3 / s,
            "learning_rate": s * 1e-4,
        }
        for s in (10, 20)
    ]
    lines += [{"step": s, "eval/depth/rmse": 10 / s} for s in (10, 20)]
    (workdir / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3'
    )
    (workdir / "run.json").write_text(
        json.dumps({"command": ["main.py", "--config=a.py"], "versions": {"jax": "0.10.2"}})
    )
    (workdir / "config.json").write_text(json.dumps({"optimizer": {"lr": 0.001}}))
    path = write_report(workdir)
    assert path == workdir / "report.html"
    return path.read_text()


def test_it_has_all_sections_and_is_well_formed(page):
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "Results",
        "Every class",
        "Pictures",
        "Training",
        "How to read this",
        "The run",
    ]
    parser = Balance()
    parser.feed(page)
    assert parser.open == [] and "script" not in parser.seen


def test_it_is_self_contained(page, finished):
    parser = Balance()
    parser.feed(page)
    assert len(parser.resources) == 1 + len(SCENES_TASKS)
    assert all(resource.startswith("data:image/png;base64,") for resource in parser.resources)
    assert (
        base64.b64decode(parser.resources[0].split(",")[1])
        == (finished.folder / "panels" / "overview.png").read_bytes()
    )
    assert not re.search(r"https?://|url\(|@import", page)


def test_it_shows_every_number_of_the_table(page, finished):
    table = page[page.index("<h2>Results") : page.index("<h2>Every class")]
    cells = re.findall("<td[^>]*>(.*?)</td>", table)
    rows = [tuple(cells[i : i + 7]) for i in range(0, len(cells), 7)]
    # Nothing was measured earlier.
    names = tables.columns(finished.metrics)
    assert not {*tables.EARLIER} & {*names}
    assert "<dt>trivial</dt>" in page
    assert "<dt>before</dt>" not in page and "<dt>shipped</dt>" not in page
    shown = [tuple(getattr(row, name) for name in names) for row in tables.rows(finished.metrics)]
    assert [row[1:] for row in rows] == [row[1:] for row in shown]


def test_it_shows_every_class_with_its_iou(page, finished):
    for name in SCENES_TASKS["semantic"].classes:
        value = finished.metrics[f"semantic/iou/{name}"]
        shown = "–" if value is None else f"{100 * value:.1f}"
        assert f'<tr><td>{name}</td><td class="number main">{shown}</td>' in page


def test_it_states_run_config_and_card_and_escapes_them(page):
    facts = (
        "main.py --config=a.py",
        "versions.jax",
        "optimizer.lr",
        "0.001",
        "an &lt;oracle&gt;",
        "a &lt;b&gt; run",
    )
    for text in (*facts, "semantic-detectron2"):
        assert text in page
    assert "an <oracle>" not in page


def test_it_draws_losses_learning_rate_and_evaluations(page):
    charts = re.findall(r"<svg.*?</svg>", page, re.S)
    assert [len(list(ElementTree.fromstring(chart).iter("polyline"))) for chart in charts] == [
        1,
        2,
        1,
        1,
    ]
    assert re.findall(r"</i>(.*?)</span>", page) == ["depth", "light"]
    assert "loss (log scale)" in charts[0] and "RMSE in m" in charts[3]


def test_an_evaluation_alone_makes_a_report_of_the_latest_step(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "eval" / "100")
    shutil.copytree(finished.folder, tmp_path / "eval" / "20")
    text = write_report(tmp_path, tmp_path / "elsewhere.html").read_text()
    assert (
        "step 100 · 8 tasks · 3 examples a task (val) · 1 denoising step ·" in text
        and "<h2>Training" not in text
    )


def test_without_an_evaluation_it_says_how_to_get_one(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="holds no eval/<step>/metrics.json: run main.py .* --mode=eval"
    ):
        write_report(tmp_path)


def test_a_chart_places_its_points_by_the_axes():
    svg = re.search(
        r"<svg.*?</svg>", line_chart({"a": [(0, 0.0), (10, 1.0)]}, y_label="y"), re.S
    ).group()
    line = ElementTree.fromstring(svg).find("polyline").attrib["points"]
    assert line == "64.0,274.0 624.0,14.0"  # the corners of the plot


def test_a_chart_leaves_out_what_is_not_finite_and_says_when_nothing_is_left():
    assert (
        line_chart({"a": [(0, float("nan"))]}, y_label="y")
        == '<p class="note">No points to draw.</p>'
    )
    assert "No points" in line_chart({"a": [(0, -1.0)]}, y_label="y", log_y=True)
    assert "<circle" in line_chart({"a": [(0, 2.0)]}, y_label="y", log_y=True)


def test_axes_have_round_ticks():
    assert linear_axis(0.0, 700.0) == (0, 800, [0, 200, 400, 600, 800])
    assert log_axis(0.03, 0.4) == (0.02, 0.5, [0.02, 0.05, 0.1, 0.2, 0.5])
    assert log_axis(1e-6, 1.0).ticks == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0])
    assert [format_tick(v) for v in (0, 5e-4, 0.002, 1500, 20000, 3e6)] == [
        "0",
        "5e-4",
        "0.002",
        "1.5k",
        "20k",
        "3M",
    ]
