"""The report's values -> one self-contained HTML page: no network, no code but what stands in it.

Text is escaped by the template, and spelled out where it could not be seen or would turn the line around. The
content-security policy names the hash of every script and style; Vega's expressions are interpreted, never compiled.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import PurePosixPath
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mnemoscope.report.escapes import escape
from mnemoscope.report.page_data import MAX_TABLE_CHARACTERS, dump_json, figure_data, study_data, table_data
from mnemoscope.report.provenance import ProvenanceTable, hide_home
from mnemoscope.report.rigor import RigorRow
from mnemoscope.report.sections import Section
from mnemoscope.report.study_facts import StudyFacts
from mnemoscope.report.theme import theme
from mnemoscope.report.verdict import Verdict
from mnemoscope.version import __version__

Spec = Mapping[str, Any]

STYLES: Final = ("page.css", "explorer.css")
SCRIPTS: Final = (
    "elements.js",
    "narrowing.js",
    "figures.js",
    "tables.js",
    "sequence.js",
    "explorer.js",
    "embedded.js",
    "surroundings.js",
    "page.js",
)
"""In the order in which they run."""
SIGNS: Final = {
    "found": "✓",
    "not found": "–",
    "undecided": "?",
    "plain": "·",
    "warning": "!",
    "holds": "✓",
    "fails": "–",
    "done": "✓",
    "partly": "◐",
    "not done": "✗",
    "not applicable": "–",
}
WORDS: Final = {
    "plain": "measured",
    "warning": "careful",
    "holds": "shown here",
    "fails": "not shown here",
}
"""Where a state is not its own word."""


@dataclass(frozen=True, kw_only=True)
class PageContent:
    """Everything that the page says; what a study lacks is empty."""

    facts: StudyFacts
    folder: str
    """The study's folder as a reader types it."""
    verdict: Verdict
    sections: tuple[Section, ...]
    rigor: tuple[RigorRow, ...]
    provenance: tuple[ProvenanceTable, ...]
    figures: Mapping[str, Mapping[str, Spec]]
    """By section, the Vega-Lite descriptions by name."""
    explorer: Mapping[str, Any] | None
    """The sample of sequences as JSON; None where there is none."""
    max_table_characters: int = MAX_TABLE_CHARACTERS


def build_page(content: PageContent) -> str:
    """The whole page as HTML."""
    names = {section.name: _figure_names(section, content.figures) for section in content.sections}
    shown = {name: content.figures[section][name] for section in names for name in names[section]}
    style = "".join(asset_text(name) for name in STYLES)
    scripts = [vega_bundle(), *(asset_text(name) for name in SCRIPTS)]
    page = _template().render(
        content=content,
        figures=names,
        captions={name: _caption(name, spec) for name, spec in shown.items()},
        glance=list(_glance(content.facts)),
        choices=_choices(content.facts),
        tally=_tally(content.rigor),
        replay=_replay(content),
        has_explorer=bool(content.explorer and content.explorer["sequences"]),
        signs=SIGNS,
        words={state: WORDS.get(state, state) for state in SIGNS},
        policy=content_policy(style, scripts),
        style=style,
        scripts=scripts,
        data=dump_json(_data(content, shown)),
        version=__version__,
    )
    return page.encode("utf-8", "replace").decode()  # half a surrogate pair from a file's name has no UTF-8


def asset_text(name: str, package: str = "mnemoscope.report") -> str:
    """One of the files that pages are made of."""
    return (resources.files(package) / "assets" / name).read_text(encoding="utf-8")


@cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that defines `vegaEmbed`; from vl-convert, about 0.9 MB."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("globalThis.vegaEmbed = vegaEmbed;")
    # Inside strings and patterns these say the same; outside they do not occur.
    return bundle.replace("</script", "\\x3c/script").replace("<!--", "\\x3c!--").replace("\r\n", "\n")


def content_policy(style: str, scripts: Sequence[str]) -> str:
    """The content-security policy that lets this style and these scripts be, and nothing else."""
    allowed = " ".join(hash_source(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {hash_source(style)}; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def hash_source(text: str) -> str:
    """What a content-security policy calls an inline script or style: the hash of its very bytes."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=seen
    )
    return environment.from_string(asset_text("page.html.j2"))


def seen(value: object) -> object:
    """Text with what cannot be seen spelled out, and % kept on its number's line; the template's markup as it is."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return escape(value, keep="\n", backslash=False).replace(" %", "\u00a0%")
    return value


def _figure_names(section: Section, figures: Mapping[str, Mapping[str, Spec]]) -> list[str]:
    """The section's figures that are there, the most telling first, those that it does not name last."""
    there = figures.get(section.name, {})
    return [name for name in dict.fromkeys((*section.figures, *there)) if name in there]


def _caption(name: str, spec: Spec) -> dict[str, str]:
    meta = spec.get("usermeta", {})
    return {"title": meta.get("title", name.replace("_", " ")), "caption": meta.get("caption", "")}


def _data(content: PageContent, figures: Mapping[str, Spec]) -> dict[str, Any]:
    final = content.facts.final_models
    largest = max(final, key=lambda model: model.num_non_embedding_parameters).label if final else None
    room = content.max_table_characters
    tables = {
        f"{section.name}/{one.name}": table_data(one.table, one.caption, max_characters=room, model=largest)
        for section in content.sections
        for one in section.tables
    }
    return {
        "study": study_data(content.facts, folder=content.folder),
        "figures": {name: figure_data(spec) for name, spec in figures.items()},
        "dark_config": theme(dark=True),
        "tables": tables,
        "explorer": content.explorer,
    }


def _glance(facts: StudyFacts) -> Iterator[tuple[str, str]]:
    """What was measured, in a few words."""
    final = facts.final_models
    steps = len(facts.models) - len(final)
    checkpoints = "" if not steps else f", and {steps} earlier checkpoint{'' if steps == 1 else 's'}"
    yield "Models", ", ".join(model.label for model in final) + checkpoints
    for name, group in facts.groups.items():
        number = group.num_scored if group.num_scored is not None else group.num_sequences
        yield ("Sequences" if name == "member" else "Control"), f"{number:,}"
    yield "Contexts k", f"{_listed(facts.contexts)} tokens"
    yield "Continuations n", f"{_listed(facts.continuations)} tokens"
    if facts.traced_contexts:
        yield "Traced token by token", f"at k = {_listed(facts.traced_contexts)}"
    if facts.duration_seconds is not None:
        yield "Computed in", _duration(facts.duration_seconds)


def _listed(lengths: Sequence[int]) -> str:
    return ", ".join(map(str, lengths))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _choices(facts: StudyFacts) -> list[tuple[str, str, list[tuple[str, str]]]]:
    return [
        ("model", "all models", [(model.label, model.label) for model in facts.models]),
        ("context", "all k", [(str(k), f"k = {k}") for k in facts.contexts]),
        ("continuation", "all n", [(str(n), f"n = {n}") for n in facts.continuations]),
    ]


def _tally(rows: Sequence[RigorRow]) -> list[tuple[str, int]]:
    counts = Counter(str(row.state) for row in rows)
    return [(state, counts[state]) for state in ("done", "partly", "not done", "not applicable") if counts[state]]


def _replay(content: PageContent) -> str:
    """The command that makes the study again from its resolved settings; an import has none but its own."""
    if content.facts.mode == "imported":
        return hide_home(content.facts.command or "")
    folder = PurePosixPath(content.folder)
    return shlex.join(["mnemoscope", "study", str(folder / "study.toml"), "--out", f"{content.facts.name}-again"])
