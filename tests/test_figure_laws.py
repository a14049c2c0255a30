"""Every figure of every perspective: what it carries for a page, and what it looks like on paper."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from itertools import pairwise

import altair
import pytest
import vl_convert

from mnemoscope.analyses.transitions import transitions
from mnemoscope.errors import EngineError, StoreError
from mnemoscope.findings import specs_of
from mnemoscope.report import drawing
from mnemoscope.report.figure import MAX_ROWS, evenly, told_number, told_percent, told_points
from mnemoscope.report.theme import COLORS, COLORS_ON_DARK, MAX_WIDTH, TEXT_SIZE, dark_colors, ramp, theme
from mnemoscope.report.vega import HOVER, views_of, without_hover
from test_figures import study as factors_of_sizes
from test_transitions import OWN, example, pair
from worded_studies import every_result

POINTED_AT = {"point", "rule", "rect"}
INCHES, POINTS = 3.3, 72
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def specs():
    """Every figure of results of every kind, by name."""
    grid = factors_of_sizes(["small", "middle", "large"], cells=((32, 16), (32, 32), (64, 16), (64, 32)))
    levels = transitions([*OWN, pair(example()), pair(example(), relation="step", names=("one", "two"))])
    results = every_result() | {"factors": grid, "transitions": levels}
    return {name: spec for result in results.values() for name, spec in specs_of(result).items()}


@pytest.fixture(scope="module")
def svgs(specs):
    """Every figure as it is drawn on paper."""
    return {name: vl_convert.vegalite_to_svg(without_hover(spec)) for name, spec in specs.items()}


def rows_of(spec):
    """All rows of a figure."""
    return [row for rows in spec["datasets"].values() for row in rows]


def luminance(color):
    """Relative luminance of `#rrggbb` after WCAG 2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_perspective_has_figures(specs):
    """The equivalents of the study's figures are there: shares, bins, matrices, curves, paths, predictions."""
    assert specs.keys() >= {
        *("memorized_by_size", "memorized_by_context", "memorized_by_continuation", "score_bins"),
        *("transitions_by_size", "transitions_inverse"),
        *("frequency_1gram", "frequency_2gram", "frequency_1gram_boundary", "entropy_by_index", "entropy_boundary"),
        *("embedding_spread", "embedding_distances", "embedding_path_pca"),
        *("prediction_accuracy", "prediction_by_score", "prediction_fully_by_score"),
    }


def test_figures_are_valid(specs):
    """Each description keeps to Vega-Lite's schema, but for the place of two legends, which only Vega's has."""
    for spec in specs.values():
        legend = {name: value for name, value in spec["config"]["legend"].items() if name != "layout"}
        rows = {name: some[:1] for name, some in spec["datasets"].items()}
        altair.Chart.from_dict({**spec, "datasets": rows, "config": {**spec["config"], "legend": legend}})
        assert json.loads(json.dumps(spec, allow_nan=False)) == spec


def test_figures_speak(specs):
    """Each has a title, and a caption of sentences that says how many there are or that a pointer tells it."""
    for name, spec in specs.items():
        usermeta = spec["usermeta"]
        assert usermeta["title"] == spec["title"]["text"] != ""
        assert usermeta["caption"].endswith("."), name
        assert re.search(r"\bn\b|\d+ .*sequences", usermeta["caption"]), name


def test_marks_tell_value_and_n(specs):
    """Whatever can be pointed at tells what it is, its value and how many stand behind it; bare lines tell nothing."""
    for name, spec in specs.items():
        told = [view for view in views_of(spec) if "tooltip" in view.get("encoding", {})]
        assert told, name
        for view in told:
            assert view["mark"]["type"] in POINTED_AT
            assert [entry["title"] for entry in view["encoding"]["tooltip"]][::2] == ["what", "n"]
        rows = [row for row in rows_of(spec) if "told_n" in row]
        assert rows, name
        assert all(re.search(r"\d", row["told_n"]) and row["told_what"] and row["told_value"] for row in rows), name


def test_choices_leave_a_figure_whole(specs):
    """What a reader may choose by is a column of some rows, and never where a mark stands along x."""
    for name, spec in specs.items():
        columns = {column for row in rows_of(spec) for column in row}
        along = {view["encoding"]["x"]["field"] for view in views_of(spec) if "x" in view.get("encoding", {})}
        for kind, column in spec["usermeta"]["choices"].items():
            assert kind in {"model", "context", "continuation"}
            assert column in columns - along, name


def test_panels_are_named_by_what_they_stand_for(specs):
    """Names of panels have letters, digits and underscores; those of models count through `panel_models`."""
    for spec in specs.values():
        names = [view["name"] for view in views_of(spec) if view.get("name", "").startswith("choice_")]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch(r"choice_(model|context|continuation)_\d+", name) for name in names)
        models = [name for name in names if name.startswith("choice_model_")]
        assert models == [f"choice_model_{index}" for index in range(len(spec["usermeta"].get("panel_models", ())))]


def test_cells_name_their_sequences(specs):
    """Every observed cell of a transition matrix says which sequences are in it; those of the null say nothing."""
    names = ("model", "context", "continuation", "level")
    columns = {f"{name}_{side}" for name in names for side in ("from", "to")} | {"group", "num_chosen"}
    for name, spec in specs.items():
        assert spec["usermeta"].get("cells", False) == name.startswith("transitions")
        if name.startswith("transitions"):
            kinds = {frozenset(columns & row.keys()) for row in rows_of(spec)}
            assert frozenset(columns) in kinds <= {frozenset(columns), frozenset()}


def test_no_figure_is_heavy(specs):
    """A page carries at most 2,000 rows of a figure."""
    assert {name for name, spec in specs.items() if len(rows_of(spec)) > MAX_ROWS} == set()


def test_type_is_legible_in_one_column(specs, svgs):
    """Printed 3.3 inches wide, no letter of any figure is smaller than 7 points."""
    for name, svg in svgs.items():
        root = ET.fromstring(svg)
        sizes = [int(float(text.get("font-size", "0").removesuffix("px"))) for text in root.iter(f"{SVG}text")]
        assert float(root.get("width", "0")) <= MAX_WIDTH, name
        assert min(sizes) == TEXT_SIZE, name
        assert min(sizes) * INCHES * POINTS / float(root.get("width", "0")) >= 7, name


def test_what_only_a_pointer_finds_is_not_on_paper(specs, svgs):
    """The points that carry a line's tooltips are in the page's description and not in the files."""
    hidden = {name for name, spec in specs.items() if any(view.get("name") == HOVER for view in views_of(spec))}
    assert hidden >= {"entropy_by_index", "embedding_path_pca", "prediction_by_score"}
    for name, svg in svgs.items():
        assert 'opacity="0"' not in svg, name


def test_files_are_of_one_description(specs, tmp_path):
    """SVG, PDF and PNG of a figure have the same proportions; the PDF holds its letters with their font."""
    [svg, pdf, png] = drawing.save_specs({"one": specs["score_bins"]}, tmp_path)
    root = ET.parse(svg).getroot()
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    box = re.search(rb"/MediaBox ?\[0 0 ([\d.]+) ([\d.]+)\]", pdf.read_bytes())
    assert box is not None
    assert float(box[1]) / float(box[2]) == pytest.approx(width / height, rel=1e-2)
    assert 200 < float(box[1]) <= INCHES * POINTS
    assert re.search(rb"/FontFile[23]", pdf.read_bytes())
    content = png.read_bytes()
    pixels = [int.from_bytes(content[start : start + 4], "big") for start in (16, 20)]
    assert pixels == [pytest.approx(3 * width, abs=1), pytest.approx(3 * height, abs=1)]


def test_processes_draw_what_one_draws(specs, tmp_path):
    """How many processes draw changes no byte of any file."""
    some = {name: specs[name] for name in ("score_bins", "transitions_by_size", "prediction_gains")}
    alone = drawing.save_specs(some, tmp_path / "alone", num_workers=1)
    shared = drawing.save_specs(some, tmp_path / "shared", num_workers=2)
    assert [path.name for path in shared] == [f"{name}.{kind}" for name in some for kind in ("svg", "pdf", "png")]
    for one, other in zip(alone, shared, strict=True):
        if one.suffix != ".pdf":
            assert one.read_bytes() == other.read_bytes()
        else:
            assert len(one.read_bytes()) == pytest.approx(len(other.read_bytes()), rel=0.01)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_errors_of_drawing_are_ours(specs, tmp_path, num_workers):
    """A folder that cannot be written and a description that is none are one line, whichever process met them."""
    (tmp_path / "taken").write_text("a file")
    some = {name: specs[name] for name in ("score_bins", "prediction_gains")}
    with pytest.raises(StoreError, match=r"taken/\w+\.svg: cannot be written"):
        drawing.save_specs(some, tmp_path / "taken", num_workers=num_workers)
    bad = {**specs["score_bins"], "concat": [{"mark": "nothing"}]}
    with pytest.raises(EngineError, match=r"figure bad: cannot be drawn \(.+\)"):
        drawing.save_specs({"bad": bad, **some}, tmp_path / "figures", num_workers=num_workers)


def test_a_process_that_dies_is_told(specs, tmp_path, monkeypatch):
    """A drawing process that ends without a word is an EngineError, not a wait without end."""
    monkeypatch.setattr(drawing.sys, "executable", "/bin/true")
    with pytest.raises(EngineError, match="the process that drew it is gone"):
        drawing.save_specs({"one": specs["score_bins"], "two": specs["score_bins"]}, tmp_path, num_workers=2)


def test_interrupted_drawing_ends(specs, tmp_path):
    """Ctrl-C ends the drawing and its processes, and leaves no half-written file."""
    (tmp_path / "specs.json").write_text(json.dumps({f"f{i}": specs["transitions_by_size"] for i in range(200)}))
    script = (
        "import json, pathlib, sys\n"
        "from mnemoscope.report.drawing import save_specs\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "save_specs(json.loads((folder / 'specs.json').read_text()), folder / 'out', num_workers=2)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(tmp_path)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in said
    assert len(list(tmp_path.glob("out/*.png"))) < 200
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_colors_have_an_order_and_a_dark_twin(specs):
    """The ramp rises in luminance on either page, every colour drawn has a twin, and each twin is seen on dark."""
    for colors in (COLORS, COLORS_ON_DARK):
        lightness = [116 * luminance(color) ** (1 / 3) - 16 for color in colors]  # L* of CIE 1976
        assert all(right - left > 4 for left, right in pairwise(lightness))
    assert dark_colors({"range": ramp(7)}) == dict(zip(ramp(7), ramp(7, dark=True), strict=True))
    page = luminance("#16181d")
    for name, spec in specs.items():
        views = json.dumps({part: spec[part] for part in ("concat", "hconcat", "vconcat") if part in spec})
        assert set(re.findall(r'"(#[0-9a-f]{6})"', views)) == set(spec["usermeta"]["dark_colors"]), name
    seen = {dark for spec in specs.values() for light, dark in spec["usermeta"]["dark_colors"].items()}
    marks = {color for color in seen if color not in {"#16181d", "#333a45", "#0d1014"}}
    assert all((luminance(color) + 0.05) / (page + 0.05) >= 3 for color in marks - {"#5a616c"})


def test_themes_differ_in_colour_alone():
    """The dark theme has the light one's parts, fonts and sizes; its page shows through."""
    light, dark = theme(), theme(dark=True)
    assert dark["background"] is None
    for part in ("axis", "legend", "title"):
        assert light[part].keys() == dark[part].keys()
        different = {name for name in light[part] if light[part][name] != dark[part][name]}
        assert all(name.endswith(("Color", "color")) for name in different)


def test_numbers_are_told_in_three_digits():
    """Shares in percent, gains in points, others as they are, each with its interval where there is one."""
    assert told_percent(0.27255, 0.2357, 0.3128) == "27.3 % [23.6, 31.3]"
    assert told_percent(0.0, 0.0, 0.0157) == "0 % [0, 1.57]"
    assert told_percent(0.99999, None, None) == "99.9+ %"
    assert told_percent(1.0, 0.99999, 1.0) == "100 % [99.9+, 100]"
    assert told_points(0.041, -0.003, 0.082) == "+4.1 points [-0.3, +8.2]"
    assert told_number(123456.7, 0.5, None) == "123,457"
    assert told_number(1.23456, 1.0, 2.0) == "1.23 [1, 2]"


def test_thinned_values_keep_their_ends():
    """No more than asked for, evenly, the first and the last among them."""
    assert evenly(range(5), 9) == [0, 1, 2, 3, 4]
    assert evenly(range(101), 5) == [0, 25, 50, 75, 100]
