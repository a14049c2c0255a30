"""A complete study -> its findings: stored, drawn, reported, and printed."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from mnemoscope.findings import analyze, of_final_models, save_findings
from mnemoscope.flips import all_flips
from mnemoscope.report.flip_table import flip_table
from mnemoscope.report.layout import print_table
from mnemoscope.report.tables import print_results
from mnemoscope.reporting import REPORT_FILE, write_report
from mnemoscope.store import Study


def conclude(finished: Study) -> None:
    """Analyse, draw, write the report, and print the tables and where everything lies."""
    results = analyze(finished)
    figures = save_findings(finished, results)
    write_report(finished, results=results)
    console = Console()
    print_results({name: of_final_models(finished, result) for name, result in results.items()}, console)
    if rates := all_flips(finished):
        console.print()
        print_table(flip_table(rates), console)
    _print_places(finished, figures, console)


def _print_places(finished: Study, figures: list[Path], console: Console) -> None:
    console.print()
    pictures = [path for path in figures if path.suffix == ".png"]
    for what, path in (
        ("scores", finished.where("scores")),
        ("tables", finished.where("analyses")),
        ("figures", finished.where("figures")),
        ("report", finished.where(REPORT_FILE)),
    ):
        count = f" ({len(pictures)} as SVG, PDF and PNG)" if what == "figures" else ""
        console.print(f"{what:9} {path}{count}", highlight=False, markup=False, soft_wrap=True)
