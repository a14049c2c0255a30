"""Figures and terminal tables: what stands in them is what stands in the result."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from mnemoscope.analyses.factors import ModelCounts, factors
from mnemoscope.analyses.matches import MatchCounts, Stratum, StratumCounts
from mnemoscope.errors import StoreError
from mnemoscope.report import figures, tables

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def study(labels, *, control=True, repeats=(1, 4), steps=(None,), cells=((32, 16), (32, 32), (64, 16))):
    """A result whose memorized count is 10 x size x repeats of 1,000 members, and 0 of 500 controls."""
    models = {}
    for size, label in enumerate(labels, start=1):
        for step in steps:
            strata = {}
            for cell in cells:
                for copies in repeats:
                    memorized = min(10 * size * (copies or 1), 1000)
                    strata[Stratum("member", copies, *cell)] = stratum(memorized, 1000)
                if control:
                    strata[Stratum("control", None, *cell)] = stratum(0, 500)
            name = label if step is None else f"{label}@step{step}"
            models[name] = ModelCounts(
                label=name,
                source=label,
                num_parameters=10**5 * size,
                num_non_embedding_parameters=10**4 * size,
                training_step=step,
                counts=MatchCounts(strata),
            )
    return factors(models)


def stratum(memorized, total):
    binned = (total - memorized, *[0] * 10, memorized)
    return StratumCounts(
        num_sequences=total, num_memorized=memorized, num_fragile=1, num_fragile_memorized=0, binned=binned
    )


def describe(result, name):
    """One figure's description, without drawing the others."""
    return {**dict(figures.FIGURES)[name](result).to_dict(), "config": figures.theme()}


def drawn(spec):
    """All rows of all panels."""
    return [row for panel in spec["concat"] for row in spec["datasets"][panel["data"]["name"]]]


def test_only_what_has_data_is_drawn():
    """One model has no figure along size, no known repeats no dose, no checkpoints no training curve."""
    assert list(figures.figure_specs(study(["a", "b"], steps=(1, 9)))) == [name for name, _ in figures.FIGURES]
    one = figures.figure_specs(study(["a"], repeats=(None,), control=False))
    assert list(one) == ["memorized_by_context", "memorized_by_continuation", "score_bins"]
    assert figures.figure_specs(study(["a"], repeats=(None,), cells=((32, 16),))).keys() == {"score_bins"}


def test_figures_carry_the_tables_numbers():
    """The points of a figure are rows of its table, members and control; n and the lack of a control are told."""
    result = study(["a", "b", "c"])
    spec = describe(result, "memorized_by_size")
    shares = sorted((row["context"], row["group"], row["share"]) for row in drawn(spec))
    table = result.memorized.to_pylist()
    assert shares == sorted((row["context"], row["group"], row["share"]) for row in table)
    assert spec["title"]["subtitle"][0] == "n per point: 2,000 member sequences, 500 control sequences"
    bare = describe(study(["a", "b"], control=False), "memorized_by_size")
    assert "no control given" in bare["title"]["subtitle"][1]


def test_models_stand_by_size():
    """Models are ordered by size in the legend, where the alphabet would put 12b before 160m before 70m."""
    spec = describe(study(["70m", "160m", "12b"]), "memorized_by_context")
    assert spec["concat"][0]["layer"][0]["encoding"]["color"]["scale"]["domain"] == ["70m", "160m", "12b"]


def test_panels_of_single_points_are_left_out():
    """Of the continuations only n = 16 has two contexts, so the figure along context has one panel."""
    spec = describe(study(["a"]), "memorized_by_context")
    assert [panel["title"]["text"] for panel in spec["concat"]] == ["n = 16"]


def test_zeros_have_a_place():
    """With zero shares the axis is linear next to zero and starts there; without, it is logarithmic."""
    zeros = describe(study(["a", "b"]), "memorized_by_size")
    y = zeros["concat"][0]["layer"][0]["encoding"]["y"]
    assert (y["scale"]["type"], y["scale"]["domain"][0], y["axis"]["values"][0]) == ("symlog", 0, 0)
    bare = describe(study(["a", "b"], control=False), "memorized_by_size")
    assert bare["concat"][0]["layer"][0]["encoding"]["y"]["scale"]["type"] == "log"


def test_many_rows_are_drawn():
    """More than 5,000 rows, altair's limit for tables, are described all the same."""
    labels = [f"model-{i}" for i in range(220)]
    result = study(labels, repeats=(1,), cells=((32, 32),))
    chart = figures.draw_bins(result)
    assert sum(map(len, chart.to_dict()["datasets"].values())) == 220 * 2 * 12 > 5000


def test_files_are_whole(tmp_path):
    """SVG and PNG of each figure are written, parse, hold the title, and leave no temporary file."""
    result = study(["a", "b"], repeats=(None,), cells=((32, 16), (64, 16)))
    paths = figures.save_figures(result, tmp_path / "figures")
    names = {f"{path.stem}.{kind}" for path in paths for kind in ("svg", "png")}
    assert len(names) == len(paths) == 6
    assert {path.name for path in paths} == {path.name for path in (tmp_path / "figures").iterdir()} == names
    assert (tmp_path / "figures" / "memorized_by_size.png").read_bytes().startswith(PNG_SIGNATURE)
    text = "".join(ET.parse(tmp_path / "figures" / "memorized_by_size.svg").getroot().itertext())
    assert "Memorized share by model size" in text
    assert "parameters (non-embedding)" in text


def test_unwritable_folder_is_one_line(tmp_path):
    """A folder that cannot be made is a StoreError that names the path."""
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match=r"taken/x\.svg: cannot be written"):
        figures.write_atomically(tmp_path / "taken" / "x.svg", b"")


def test_specs_are_json():
    """A figure's description is plain JSON, with the one theme in it."""
    spec = figures.figure_specs(study(["a"], repeats=(None,), cells=((32, 16),)))["score_bins"]
    assert json.loads(json.dumps(spec))["config"] == figures.theme()


def printed(result, **settings):
    file = io.StringIO()
    tables.print_tables(result, Console(file=file, **settings))
    return file.getvalue()


def test_pipe_gets_every_cell():
    """In a pipe nothing is cut, whatever the width: counts with separators, percent, control and excess."""
    text = printed(study(["tiny", "a-rather-long-name-of-a-model"]), width=40)
    line = next(line for line in text.splitlines() if line.startswith("a-rather-long-name-of-a-model  32  16"))
    assert line.split("  ")[:3] == ["a-rather-long-name-of-a-model", "32", "16"]
    for part in ("100 / 2,000", "5.0 % (4.1 to 6.0)", "0 / 500", "5.0 points (3.8 to 6.0)"):
        assert part in line
    assert "…" not in text
    assert "\x1b" not in text


def test_tables_stand_by_size():
    """Rows go from the small model to the large."""
    text = printed(study(["70m", "160m", "12b"]))
    assert text.index("70m ") < text.index("160m ") < text.index("12b ")


def test_labels_are_literal():
    """Markup and escape sequences in a label are shown or dropped, never obeyed."""
    text = printed(study(["[red]x[/red]\x1b[31m"]))
    assert "[red]x[/red][31m" in text
    assert "\x1b" not in text


def test_narrow_terminal_keeps_keys():
    """In a terminal of 80 columns the model, k and n are still there, whole."""
    text = printed(study(["tiny", "small"]), width=80, force_terminal=True, no_color=True)
    assert any(line.split()[:3] == ["small", "64", "16"] for line in text.splitlines())
