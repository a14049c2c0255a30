"""Where a study's numbers come from, as tables of plain text: models, texts, grid, software and machine, command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from mnemoscope.report.spoken import plural
from mnemoscope.report.study_facts import GroupFacts, ModelFacts, StudyFacts

Rows = tuple[tuple[str, str], ...]

UNKNOWN: Final = "not known"
_HOME: Final = re.compile(
    r"(?<![\w.~-])(?:/home/[^/\s\"']+|/Users/[^/\s\"']+|/root|[A-Za-z]:\\Users\\[^\\\s\"']+)(?=[/\\\s\"']|$)"
)
"""A home directory at the start of a path: what tells who ran a study, and nothing about it."""
_SHORT: Final = 12
"""Hex digits that name a hash at a glance; the whole hash stands beside them."""
_DRAWN: Final = {
    "all": "all rows of the corpus",
    "sample": "a random sample of the corpus's rows",
    "listed": "the rows that a file lists",
    "imported": "those that the imported scores are of",
}


class ProvenanceTable(NamedTuple):
    """A title, and rows of a name and what is known of it."""

    title: str
    rows: Rows


def provenance(facts: StudyFacts) -> tuple[ProvenanceTable, ...]:
    """One table for each model and text, then grid, software and machine, and how to repeat it."""
    models = (ProvenanceTable(f"Model {model.label}", _model_rows(model)) for model in facts.models)
    names = {"member": "Training text (member)", "control": "Text never seen (control)"}
    texts = (ProvenanceTable(names.get(group, group), _group_rows(some)) for group, some in facts.groups.items())
    return (
        *models,
        *texts,
        ProvenanceTable("Grid", _grid_rows(facts)),
        ProvenanceTable("Software and machine", _machine_rows(facts)),
        ProvenanceTable("How to repeat it", _replay_rows(facts)),
    )


def hide_home(text: str) -> str:
    """The text with home directories as ~."""
    return _HOME.sub("~", text)


def hash_words(value: str | None) -> str:
    """`cdcdde364d08 (cdcdde364d08776d...)`: short for the eye, whole for the check."""
    return UNKNOWN if value is None else f"{value[:_SHORT]} ({value})"


def _model_rows(model: ModelFacts) -> Rows:
    imported = model.weights_sha256 is None
    step = f"{model.training_step:,}" if model.training_step is not None else "not named: taken as the last"
    return (
        ("source", hide_home(model.source)),
        ("revision", model.revision or "none named"),
        ("training step", step + ("" if model.is_final else " (an intermediate checkpoint)")),
        ("parameters", UNKNOWN if model.num_parameters is None else f"{model.num_parameters:,}"),
        ("parameters without embeddings", f"{model.num_non_embedding_parameters:,}"),
        ("architecture", model.architecture or _imported(imported)),
        ("weights, SHA-256", hash_words(model.weights_sha256)),
        ("architecture's settings, SHA-256", hash_words(model.config_sha256)),
        ("hub commit", model.commit or ("not known: scores were imported" if imported else "none: a local folder")),
        ("number format", model.dtype or _imported(imported)),
        ("device", model.device or _imported(imported)),
        ("attention", model.attention or _imported(imported)),
        ("sequences per pass", f"{model.batch_size:,}" if model.batch_size else _imported(imported)),
        ("run fingerprint", hash_words(model.fingerprint)),
    )


def _imported(imported: bool) -> str:
    return "not known: scores were imported" if imported else UNKNOWN


def _group_rows(group: GroupFacts) -> Rows:
    missing = "not known before the study is complete"
    return (
        ("path", _path_words(group.paths)),
        ("corpus fingerprint", hash_words(group.corpus)),
        ("sequences", _DRAWN[group.drawn] + (f": {hide_home(group.sequences)}" if group.sequences else "")),
        ("selection fingerprint", hash_words(group.selection)),
        ("selected", plural(group.num_sequences, "sequence")),
        ("scored", missing if group.num_scored is None else plural(group.num_scored, "sequence")),
        ("left out as too short", _short_words(group, missing)),
        ("window starts at", _offset_words(group)),
        ("beginning-of-sequence token", _bos_words(group)),
        ("tokenizer", _tokenizer_words(group)),
    )


def _path_words(paths: Sequence[str]) -> str:
    return ", ".join(hide_home(path) for path in paths) or UNKNOWN


def _short_words(group: GroupFacts, missing: str) -> str:
    if group.num_short is None:
        return missing
    rule = {"error": "; one too short would have been refused", "skip": "; they are skipped and counted", None: ""}
    return plural(group.num_short, "sequence") + rule[group.short_rows]


def _bos_words(group: GroupFacts) -> str:
    if group.drawn == "imported":
        return UNKNOWN
    return "put before each document" if group.bos else "none added"


def _tokenizer_words(group: GroupFacts) -> str:
    if group.tokenizer is not None:
        return hide_home(group.tokenizer)
    return (
        UNKNOWN if group.drawn == "imported" else "none named: the corpus holds token ids, or it is the first model's"
    )


def _offset_words(group: GroupFacts) -> str:
    if group.offset is None:
        return UNKNOWN
    if group.offset == "random":
        return f"a random token of the row, by seed {group.seed}"
    return f"token {group.offset:,} of the row"


def _sample_words(facts: StudyFacts) -> str:
    """How the graded sequences of mode `two-phase` are drawn."""
    if facts.graded_sample is None:
        return ""
    _, near, share = facts.graded_sample.probabilities
    return (
        f"for a random sample: probability {share:g}, {near:g} where half of the shortest continuation is recited, 1 "
        f"where nothing is left to decode; seed {facts.graded_sample.seed}"
    )


def _grid_rows(facts: StudyFacts) -> Rows:
    modes = {
        "graded": "graded: greedy decoding, every token of the continuation compared",
        "exact": "exact: whole matches and first mismatches only, from one pass",
        "two-phase": f"two-phase: exact facts of all; every token compared {_sample_words(facts)}",
        "imported": "imported: numbers of matched tokens, scored elsewhere",
    }
    rows = [
        ("contexts (tokens shown)", ", ".join(f"{k:,}" for k in facts.contexts)),
        ("continuations (tokens to recite)", ", ".join(f"{n:,}" for n in facts.continuations)),
        ("mode", modes[facts.mode]),
    ]
    if facts.traced_contexts:
        rows += [
            ("traced contexts", ", ".join(f"{k:,}" for k in facts.traced_contexts)),
            ("traced sample drawn by the score at", f"n = {facts.traced_continuation}"),
            ("traced tokens of each continuation", f"{facts.path_tokens}"),
        ]
    if facts.ngrams:
        rows.append(("n-grams counted in the corpus", ", ".join(str(n) for n in facts.ngrams)))
    return tuple(rows)


def _machine_rows(facts: StudyFacts) -> Rows:
    devices = sorted({model.device for model in facts.models if model.device})
    versions = tuple((f"version of {name}", version) for name, version in facts.versions.items())
    return (
        ("python", facts.python or UNKNOWN),
        ("platform", facts.platform or UNKNOWN),
        ("devices", ", ".join(devices) or UNKNOWN),
        ("duration of the last run", _duration_words(facts.duration_seconds)),
        *versions,
    )


def _duration_words(seconds: float | None) -> str:
    """Seconds as a reader wants them; a resumed study's last part only, which the name of the row says."""
    if seconds is None:
        return UNKNOWN
    minutes, hours = seconds / 60, seconds / 3600
    return (
        f"{seconds:.0f} seconds" if seconds < 120 else f"{minutes:.1f} minutes" if hours < 2 else f"{hours:.1f} hours"
    )


def _replay_rows(facts: StudyFacts) -> Rows:
    complete = "complete" if facts.is_complete else "not complete: no manifest stands in its folder"
    waiting = f"; not begun: {', '.join(facts.missing_models)}" if facts.missing_models else ""
    command = facts.command
    return (
        ("study", facts.name),
        ("state", complete + waiting),
        ("command as it was given", UNKNOWN if command is None else hide_home(command)),
        ("again, from the copy of its settings", "mnemoscope study study.toml"),
    )
