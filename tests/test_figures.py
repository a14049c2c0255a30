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
from mnemoscope.files import write_atomically
from mnemoscope.report import axes, figures, layout, tables, theme
from mnemoscope.report.drawing import save_specs
from mnemoscope.report.figure import MAX_ROWS, specs_of_figures

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def study(labels, *, control=True, controls=(), repeats=(1, 4), steps=(None,), cells=((32, 16), (32, 32), (64, 16))):
    """A result: 10 x size x repeats memorized of 1,000 members, and `controls`, else 0, of 500 controls."""
    models = {}
    for size, label in enumerate(labels, start=1):
        for step in steps:
            strata = {}
            for cell in cells:
                for copies in repeats:
                    memorized = min(10 * size * (copies or 1), 1000)
                    strata[Stratum("member", copies, *cell)] = stratum(memorized, 1000)
                if control:
                    strata[Stratum("control", None, *cell)] = stratum(controls[size - 1] if controls else 0, 500)
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
    return specs_of_figures({name: dict(figures.FIGURES)[name](result)})[name]


def drawn(spec):
    """All rows of all panels."""
    return [row for panel in spec["concat"] for row in spec["datasets"][panel.get("data", spec.get("data"))["name"]]]


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
    shares = sorted((row["context"], row["share"]) for row in drawn(spec) if row["group"] == "member")
    table = result.memorized.to_pylist()
    assert shares == sorted((row["context"], row["share"]) for row in table if row["group"] == "member")
    assert spec["title"]["subtitle"][0] == "n per point: 2,000 member sequences, 500 control sequences"
    bare = describe(study(["a", "b"], control=False), "memorized_by_size")
    assert "no control given" in bare["title"]["subtitle"][1]


def test_models_stand_by_size():
    """Models are ordered by size in the legend, where the alphabet would put 12b before 160m before 70m."""
    spec = describe(study(["70m", "160m", "12b"]), "memorized_by_context")
    assert spec["concat"][0]["layer"][0]["encoding"]["color"]["scale"]["domain"] == ["70m", "160m", "12b", "control"]


def test_panels_of_single_points_are_left_out():
    """Of the continuations only n = 16 has two contexts, so the figure along context has one panel."""
    spec = describe(study(["a"]), "memorized_by_context")
    assert [panel["title"]["text"] for panel in spec["concat"]] == ["n = 16"]


def test_controls_that_agree_are_one():
    """Controls within one another's intervals are drawn once, in grey, from rows of the last colour; others apart."""
    result = study(["a", "b", "c"], cells=((32, 16), (64, 16)))
    spec = describe(result, "memorized_by_context")
    controls = [row for row in drawn(spec) if row["group"] == "control"]
    assert [(row["color"], row["context"], row["share"]) for row in controls] == [
        ("control", 32, 0),
        ("control", 64, 0),
    ]
    assert {row["model"] for row in controls} == {None}
    assert spec["title"]["subtitle"][1].startswith("grey: control (c)")
    scale = spec["concat"][0]["layer"][0]["encoding"]["color"]["scale"]
    assert (scale["domain"][-1], scale["range"][-1]) == ("control", theme.CONTROL_COLOR)
    apart = describe(study(["a", "b"], cells=((32, 16), (64, 16)), controls=(0, 50)), "memorized_by_context")
    assert {row["model"] for row in drawn(apart) if row["group"] == "control"} == {"a", "b"}
    assert apart["title"]["subtitle"][1].startswith("control dashed and hollow")


def test_shares_start_at_zero():
    """The share axis is linear from 0 to just above the highest interval; only score bins run in powers of ten."""
    result = study(["a", "b"])
    y = describe(result, "memorized_by_size")["concat"][0]["layer"][0]["encoding"]["y"]
    highest = max(row["share_high"] for row in result.memorized.to_pylist())
    assert (y["scale"].get("type"), y["scale"]["domain"]) == (None, [0, pytest.approx(1.04 * highest)])
    bins = describe(result, "score_bins")["concat"][0]["layer"][0]["encoding"]["y"]
    assert (bins["scale"]["type"], bins["scale"]["domain"][0], bins["axis"]["values"][0]) == ("symlog", 0, 0)


def test_bins_stand_at_their_scores():
    """With n = 8 there are 9 bins that can occur, drawn at 0, the middles, and 1."""
    spec = describe(study(["a"], cells=((8, 8),), control=False), "score_bins")
    assert [row["score"] for row in drawn(spec)] == [0, 0.15, 0.25, 0.35, 0.55, 0.65, 0.75, 0.85, 1]


@pytest.mark.parametrize(("num_panels", "columns"), [(1, 1), (2, 2), (3, 3), (4, 2), (5, 2)])
def test_panels_leave_no_hole(num_panels, columns):
    """Three panels stand in one row, four two by two, and the first of a row alone has numbers."""
    cells = [(k, n) for k in (32, 64) for n in range(8, 8 + num_panels)]
    spec = describe(study(["a"], cells=cells), "memorized_by_context")
    assert (spec["columns"], len(spec["concat"])) == (columns, num_panels)
    numbers = [panel["layer"][0]["encoding"]["y"]["axis"]["labels"] for panel in spec["concat"]]
    assert numbers == [index % columns == 0 for index in range(num_panels)]


def test_ticks_are_the_values():
    """Contexts are named as they are, unrounded; a class of copies by its ends."""
    spec = describe(study(["a", "b"], cells=((8, 8), (16, 8), (48, 8))), "memorized_by_context")
    axis = spec["concat"][0]["layer"][0]["encoding"]["x"]["axis"]
    assert (axis["values"], axis["format"]) == ([8, 16, 48], ",~f")
    copies = describe(study(["a"], repeats=(1, 2, 3)), "memorized_by_repeats")
    assert copies["concat"][0]["layer"][0]["encoding"]["x"]["axis"]["labelExpr"] == '["1", "2 to 3"][datum.value]'


def test_only_hidden_marks_are_moved():
    """Overlapping intervals of colours stand aside, evenly around their value and less than a gap; others do not."""
    axis = axes.Axis("context", "context")
    moved = [axes.dodge([8, 16, 48], axis, place=place, num_places=3, width=100) for place in range(3)]
    assert moved[1] == [8, 16, 48]
    for left, value, right in zip(*moved, strict=True):
        assert left < value < right < left + 4
        assert right - value == pytest.approx(value - left)
    by_size = describe(study(["a", "b"], cells=((32, 16), (64, 16))), "memorized_by_size")
    assert any(row["x"] != row["num_non_embedding_parameters"] for row in drawn(by_size))
    by_context = describe(study(["a", "b"], repeats=(9, 99), cells=((32, 16), (64, 16))), "memorized_by_context")
    assert all(row["x"] == row["context"] for row in drawn(by_context))


def test_many_models_are_thinned():
    """Of more models than a page could carry some are drawn, first and last among them, and the caption says so."""
    labels = [f"model-{i}" for i in range(420)]
    spec = describe(study(labels, repeats=(1,), cells=((32, 32),)), "score_bins")
    assert 1000 < len(drawn(spec)) <= MAX_ROWS
    drawn_models = spec["concat"][0]["layer"][0]["encoding"]["color"]["scale"]["domain"]
    assert (drawn_models[0], drawn_models[-2:]) == ("model-0", ["model-419", "control"])
    assert f"Of 420 lines {len(drawn_models) - 1} are drawn." in spec["usermeta"]["caption"]


def test_files_are_whole(tmp_path):
    """SVG, PDF and PNG of each figure are written, parse, hold the title, and leave no temporary file."""
    result = study(["a", "b"], repeats=(None,), cells=((32, 16), (64, 16)))
    paths = save_specs(figures.figure_specs(result), tmp_path / "figures")
    names = {f"{path.stem}.{kind}" for path in paths for kind in ("svg", "pdf", "png")}
    assert len(names) == len(paths) == 9
    assert {path.name for path in paths} == {path.name for path in (tmp_path / "figures").iterdir()} == names
    assert (tmp_path / "figures" / "memorized_by_size.png").read_bytes().startswith(PNG_SIGNATURE)
    assert (tmp_path / "figures" / "memorized_by_size.pdf").read_bytes().startswith(b"%PDF-1.")
    text = "".join(ET.parse(tmp_path / "figures" / "memorized_by_size.svg").getroot().itertext())
    assert "Memorized share by model size" in text
    assert "parameters (non-embedding)" in text


def test_unwritable_folder_is_one_line(tmp_path):
    """A folder that cannot be made is a StoreError that names the path."""
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match=r"taken/x\.svg: cannot be written"):
        write_atomically(tmp_path / "taken" / "x.svg", b"")


def test_specs_are_json():
    """A figure's description is plain JSON, with the one theme in it."""
    spec = figures.figure_specs(study(["a"], repeats=(None,), cells=((32, 16),)))["score_bins"]
    assert json.loads(json.dumps(spec))["config"] == theme.theme()


def printed(result, **settings):
    file = io.StringIO()
    tables.print_results({"factors": result}, Console(file=file, **settings))
    return file.getvalue()


def test_pipe_gets_whole_lines():
    """In a pipe nothing is cut, whatever the width: label, k, n, counts, shares, control and excess on one line."""
    text = printed(study(["tiny", "a-rather-long-name-of-a-model"]), width=40)
    line = next(line for line in text.splitlines() if line.startswith("a-rather-long-name-of-a-model  32  16"))
    words = ["a-rather-long-name-of-a-model", "32", "16", "100", "5.0 (4.1, 6.0)", "0", "0 (0, 0.76)", "5.0 (3.8, 6.0)"]
    assert [word.strip() for word in line.split("  ") if word] == words
    header = next(line for line in text.splitlines() if "of 2,000" in line)
    assert header.split() == ["model", "k", "n", "of", "2,000", "(95", "%)", "of", "500", "(95", "%)", "(95", "%)"]
    assert "…" not in text
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


GRID = tuple((k, n) for k in (32, 48, 64, 96) for n in (16, 32, 48, 64))


def test_only_the_edges_of_the_grid_are_printed():
    """Of 16 cells the 7 with the shortest k or the shortest n; a checkpoint stands in its own table only."""
    text = printed(study(["a", "b"], cells=GRID, steps=(1, 9)))
    body = text.split("Memorized sequences: ")[1].split("\n\n")[0].splitlines()[3:]
    assert [line.split()[:3] for line in body[:7]] == [
        ["a@step9", k, n]
        for k, n in (("32", "16"), ("32", "32"), ("32", "48"), ("32", "64"), ("48", "16"), ("64", "16"), ("96", "16"))
    ]
    assert len(body) == 14
    steps = text.split("Memorized by training step (k = 32, n = 32)")[1].split("\n\n")[0].splitlines()[3:]
    assert [line.split()[:3] for line in steps] == [
        ["a", "1", "50"],
        ["a", "9", "50"],
        ["b", "1", "100"],
        ["b", "9", "100"],
    ]


def test_seven_models_fit_two_screens():
    """Seven models at 16 cells: at most 120 lines."""
    assert len(printed(study(list("abcdefg"), cells=GRID), width=100, force_terminal=True).splitlines()) <= 120


def test_scores_that_cannot_occur_are_left_out():
    """With n = 8 a score is a multiple of 1/8: no row for (0, 0.1), [0.4, 0.5) or [0.9, 1)."""
    text = printed(study(["a"], cells=((8, 8),)))
    rows = text.split("Sequences by score")[1].split("\n\n")[0].splitlines()[3:]
    labels = [
        "0",
        "[0.1, 0.2)",
        "[0.2, 0.3)",
        "[0.3, 0.4)",
        "[0.5, 0.6)",
        "[0.6, 0.7)",
        "[0.7, 0.8)",
        "[0.8, 0.9)",
        "1",
    ]
    assert [line.split("  ")[0] for line in rows] == labels


def test_repeats_are_rows_and_models_columns():
    """The pivot by repeats: 1 and 4 copies, then the control; too wide for the terminal, it goes on below."""
    text = printed(study(["small", "large"]))
    rows = text.split("Memorized by copies")[1].split("\n\n")[0].splitlines()[1:]
    assert [line.split()[0] for line in rows] == ["copies", "1", "4", "control"]
    assert rows[2].split("  ")[-2:] == ["4.0 (3.0, 5.4)", "8.0 (6.5, 9.8)"]
    narrow = printed(study(list("abcdefg")), width=60, force_terminal=True, no_color=True)
    assert "interval), continued" in narrow.replace("\n", "")
    assert max(len(line) for line in narrow.splitlines() if "\x1b" not in line) <= 60


def test_tables_stand_by_size():
    """Rows go from the small model to the large."""
    text = printed(study(["70m", "160m", "12b"]))
    assert text.index("70m ") < text.index("160m ") < text.index("12b ")


def test_nothing_is_printed_of_nothing():
    """Without any counts there is no table, only the finding."""
    bare = factors(
        {
            "a": ModelCounts(
                label="a", source="a", num_parameters=1, num_non_embedding_parameters=1, counts=MatchCounts({})
            )
        }
    )
    shown = printed(bare)
    assert "No member sequences were scored." in shown
    assert "Coverage" not in shown
    one = printed(study(["a"], control=False, cells=((32, 16), (64, 16))))
    assert "Trends of the memorized share: by length in a, the other shortest" in one


def test_labels_are_literal():
    """Markup and escape sequences in a label are shown, never obeyed."""
    text = printed(study(["[red]x[/red]\x1b[31m"]))
    assert "[red]x[/red]\\x1b[31m" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [80, 100, 120])
def test_terminal_cuts_nothing(width):
    """Whatever the width every label can be read whole down its block, and no line is longer."""
    text = printed(study(["tiny", "EleutherAI/pythia-2.8b-deduped"]), width=width, force_terminal=True, no_color=True)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines() if "\x1b" not in line) <= width
    block = text.split("Memorized sequences: ")[1].split("Memorized by")[0].splitlines()
    first = next(i for i, line in enumerate(block) if line.startswith("EleutherAI/"))
    assert "".join(line.split(" ")[0] for line in block[first : first + 3])[:30] == "EleutherAI/pythia-2.8b-deduped"


def test_labels_run_down_their_block():
    """A folded label takes the rows of its block; what is left over stands in the last row."""
    labels = ["EleutherAI/pythia-2.8b-deduped"] * 4 + ["a"] * 2 + ["EleutherAI/pythia-2.8b-deduped"]
    whole = "EleutherAI/\npythia-2.8b-\ndeduped"
    assert layout.spread_labels(labels) == [*whole.split("\n"), "", "a", "", whole]
