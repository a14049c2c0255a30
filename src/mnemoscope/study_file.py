"""A study file (TOML) <-> a study's settings; every mistake in a file is told at once, by its place.

pydantic validates here, at the file's border; inside the program settings are the plain dataclasses of `config`.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError

from mnemoscope.config import (
    CorpusConfig,
    CountsConfig,
    GradedSampleConfig,
    ModelConfig,
    PredictionConfig,
    StudyConfig,
    TracesConfig,
)
from mnemoscope.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SECTIONS: Final = ("corpus", "control", "graded_sample", "traces", "counts", "prediction")
_SETTINGS: Final = {
    "study": {each.name for each in fields(StudyConfig)},
    "corpus": {each.name for each in fields(CorpusConfig)},
    "models": {each.name for each in fields(ModelConfig)},
    "graded_sample": {each.name for each in fields(GradedSampleConfig)},
    "traces": {each.name for each in fields(TracesConfig)},
    "counts": {each.name for each in fields(CountsConfig)},
    "prediction": {each.name for each in fields(PredictionConfig)},
}


def load_study(path: Path) -> StudyConfig:
    """The study in a TOML file, its relative paths made absolute against the file's folder.

    ConfigError, one line with every mistake and its place: no such file, no TOML, unknown or missing
    settings, values of a wrong kind. Values are taken as they are: "4" is no number.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected a study file (TOML)") from error
    return resolve_paths(parse_study(text, str(path)), path.parent)


def parse_study(text: bytes, name: str) -> StudyConfig:
    """The study in the bytes of a TOML file called `name`, its paths as they are; the mistakes as `load_study`'s."""
    try:
        document = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error
    try:
        # As JSON, since only there pydantic is strict about numbers and yet takes a list for a tuple.
        return TypeAdapter(StudyConfig).validate_json(json.dumps(document, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{name}: {_describe_mistakes(error.errors())}") from error


def dump_study(config: StudyConfig) -> str:
    """The study as TOML, with its defaults written out: `load_study` of it is the same study.

    What is None is left out, since TOML has no word for it.
    """
    study = asdict(config)
    tables = {name: study.pop(name) for name in (*_SECTIONS, "models")}
    sections = [_dump_table(study)]
    sections += [f"[{name}]\n{_dump_table(tables[name])}" for name in _SECTIONS if tables[name] is not None]
    sections += [f"[[models]]\n{_dump_table(model)}" for model in tables["models"]]
    return "\n".join(sections)


def resolve_paths(config: StudyConfig, base: Path) -> StudyConfig:
    """The study with relative paths made absolute against `base`; hub names and fsspec addresses stay."""
    base = base.absolute()
    return replace(
        config,
        models=tuple(replace(model, source=_resolve_source(model.source, base)) for model in config.models),
        corpus=_resolve_corpus(config.corpus, base),
        control=None if config.control is None else _resolve_corpus(config.control, base),
    )


def _resolve_corpus(corpus: CorpusConfig, base: Path) -> CorpusConfig:
    path = corpus.path
    return replace(
        corpus,
        path=_resolve_path(path, base) if isinstance(path, str) else tuple(_resolve_path(each, base) for each in path),
        sequences=None if corpus.sequences is None else _resolve_path(corpus.sequences, base),
        tokenizer=None if corpus.tokenizer is None else _resolve_source(corpus.tokenizer, base),
    )


def _resolve_path(address: str, base: Path) -> str:
    """An absolute path; an fsspec address such as s3://bucket/x as it is."""
    is_remote = "://" in address or "::" in address
    return address if is_remote else os.path.abspath(base / _expand(address))  # noqa: PTH100  keeps links


def _resolve_source(source: str, base: Path) -> str:
    """An absolute path where the source is a path; the hub name otherwise."""
    path = base / _expand(source)
    is_path = source.startswith((".", "~", "/")) or path.exists() or source.count("/") > 1
    return _resolve_path(source, base) if is_path else source


def _expand(address: str) -> Path:
    """The path with ~ and ~user as home folders."""
    try:
        return Path(address).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{address}: no such user's home folder; expected a path that exists") from error


def _dump_table(table: Mapping[str, Any]) -> str:
    return "".join(f"{name} = {_dump_value(value)}\n" for name, value in table.items() if value is not None)


def _dump_value(value: str | float | tuple[str | int, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_dump_value(item) for item in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )  # JSON's escapes, but for DEL, are TOML's
    return repr(value)


def _describe_mistakes(mistakes: list[ErrorDetails]) -> str:
    """Every mistake once, by its place; the branches of a union (`int` or `auto`) are told as one."""
    expected: dict[str, list[str]] = {}
    whole: dict[str, None] = {}
    for mistake in mistakes:
        place = _place(mistake)
        if mistake["type"] == "value_error":
            whole[_join_own_error(place, str(mistake.get("ctx", {}).get("error", mistake["msg"])))] = None
        elif mistake["type"] == "missing":
            whole[f"{place}: missing; this setting is required"] = None
        elif mistake["type"] == "unexpected_keyword_argument":
            whole[f"{place}: no such setting; expected one of {_allowed(place)}"] = None
        else:
            given = json.dumps(mistake["input"], ensure_ascii=False, default=str)
            should = mistake["msg"].removeprefix("Input should be ")
            expected.setdefault(f"{place}: {given[:80]} given", []).append(should)
    return "; ".join(
        [
            *(f"{head}; expected {' or '.join(dict.fromkeys(kinds))}" for head, kinds in expected.items()),
            *whole,
        ]
    )


def _place(mistake: ErrorDetails) -> str:
    """A path such as models[1].dtype, without the names pydantic gives to a union's branches."""
    known = set[str]().union(*_SETTINGS.values())
    *above, last = mistake["loc"] or ("",)
    if mistake["type"] == "unexpected_keyword_argument" or isinstance(last, int) or last in known:
        above.append(last)
    text = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in above
        if isinstance(part, int) or part in known or part is last
    )
    return text.removeprefix(".")


def _join_own_error(place: str, message: str) -> str:
    """`corpus` and `seed: -1 given` as `corpus.seed: -1 given`: our checks name the field, not the table."""
    message = message.removeprefix("models.") if place.startswith("models") else message
    if not place:
        return message
    return f"{place}.{message}" if re.match(r"\w+:", message) else f"{place}: {message}"


def _allowed(place: str) -> str:
    """The settings of the table that a place lies in."""
    table, dot, _ = place.partition(".")
    kind = "study" if not dot else table.partition("[")[0].replace("control", "corpus")
    return ", ".join(sorted(_SETTINGS[kind]))
