"""A corpus section of a study file -> an open corpus: which format, which reader, which fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, NamedTuple

from mnemoscope.config import CorpusConfig, CorpusFormat
from mnemoscope.corpus.columns import Column, ColumnKind, choose_column
from mnemoscope.corpus.corpus import Corpus, Rows
from mnemoscope.corpus.digest import digest_bytes, digest_facts
from mnemoscope.corpus.documents import JSON_LINES_SUFFIXES, read_fields
from mnemoscope.corpus.flat import PART_NAME, check_parts, open_document
from mnemoscope.corpus.megatron import MegatronIndex, MegatronRows
from mnemoscope.corpus.npy import open_npy
from mnemoscope.corpus.parts import Parts
from mnemoscope.corpus.sources import Source, find_sibling, find_sources
from mnemoscope.corpus.tables import TABLE_SUFFIXES, Table, TableRows
from mnemoscope.corpus.token_cache import prepare, unpack
from mnemoscope.corpus.tokenized import Recipe, TokenizedRows, write_rows
from mnemoscope.corpus.tokenizer import TextTokenizer, load_tokenizer
from mnemoscope.errors import CorpusError

Family = Literal["bin", "npy", "fields", "whole"]
_FAMILIES: Final[Mapping[str, Family]] = {
    ".bin": "bin",
    ".npy": "npy",
    ".txt": "whole",
    **dict[str, Family].fromkeys((*TABLE_SUFFIXES, *JSON_LINES_SUFFIXES), "fields"),
}
_ALLOWED: Final[Mapping[CorpusFormat, tuple[Family, ...]]] = {
    "auto": ("bin", "npy", "fields", "whole"),
    "megatron": ("bin",),
    "document": ("bin",),
    "npy": ("npy",),
    "tokens": ("fields",),
    "text": ("fields", "whole"),
}
_CACHE_VERSION: Final = 1
"""Raised when the same inputs would give other prepared rows."""


class _Opened(NamedTuple):
    members: list[Rows]
    facts: dict[str, object]
    """What decides the tokens: the format, its settings, and the digests of the content."""


def open_corpus(config: CorpusConfig, *, base: Path | None = None, default_tokenizer: str | None = None) -> Corpus:
    """The corpus that a study file's section tells of; paths are relative to `base`, the study file's folder.

    Text is tokenized and compressed binaries are unpacked here, once, into the cache. Everything that can be
    seen to be wrong without reading all tokens is a CorpusError here.
    """
    sources = find_sources(config.paths, base=base)
    family = _family(sources, config.format)
    if family in ("bin", "npy"):
        _refuse_text_settings(sources[0], config)
    if family == "bin":
        opened = _open_binaries(sources, config)
    elif family == "npy":
        opened = _open_arrays(sources, config)
    else:
        opened = _open_fields(sources, config, base, default_tokenizer)
    fingerprint = digest_facts(opened.facts)
    if not sum(len(member) for member in opened.members):
        raise CorpusError(f"{sources[0].address}: the corpus holds no rows; expected at least one")
    loaded = _reader_tokenizer(config, base, default_tokenizer)
    return Corpus(opened.members, fingerprint=fingerprint, tokenizer=None if loaded is None else loaded.tokenizer)


def _family(sources: list[Source], wanted: CorpusFormat) -> Family:
    """The one family of the files; drops an .idx that a glob brought along with its .bin."""
    if any(source.suffix == ".bin" for source in sources):
        sources[:] = [source for source in sources if source.suffix != ".idx"]
    families: dict[Family, Source] = {}
    for source in sources:
        families.setdefault(_family_of(source, wanted), source)
    kinds = set(families)
    if len(kinds) > 1 and kinds != {"fields", "whole"}:
        names = " and ".join(source.address for source in families.values())
        raise CorpusError(f"{names}: files of different kinds in one corpus; expected one kind")
    return "fields" if len(kinds) > 1 else next(iter(families))


def _family_of(source: Source, wanted: CorpusFormat) -> Family:
    if source.suffix == ".idx":
        raise CorpusError(f"{source.address}: an index given alone; expected its .bin (the .idx is found beside it)")
    allowed = _ALLOWED[wanted]
    found = _FAMILIES.get(source.suffix)
    if found is not None and found in allowed:
        return found
    if wanted == "auto":
        known = " ".join(_FAMILIES)
        raise CorpusError(
            f"{source.address}: unknown extension {source.suffix or '(none)'}; expected one of {known}, "
            "with .gz or .zst after it where compressed (or set `format`)"
        )
    if found is None and wanted != "tokens":  # a name that says nothing does not contradict the format asked for
        return allowed[-1]
    raise CorpusError(f"{source.address}: format {wanted!r} asked for; a file of {source.suffix} is not of it")


def _open_binaries(sources: Sequence[Source], config: CorpusConfig) -> _Opened:
    indexes = [_find_index(source) for source in sources] if config.format != "document" else [None]
    if config.format == "megatron" or any(indexes):
        return _open_megatron(sources, indexes)
    parts = [unpack(source) for source in sources]
    facts: dict[str, object] = {
        "format": "document",
        "content": [digest_bytes(Parts(parts))],
        "row_tokens": config.row_tokens,
        "token_dtype": config.token_dtype,
    }
    return _Opened([open_document(parts, token_dtype=config.token_dtype, row_tokens=config.row_tokens)], facts)


def _refuse_text_settings(source: Source, config: CorpusConfig) -> None:
    """CorpusError for settings that would have no effect on tokens."""
    if config.bos or config.layout == "packed":
        setting = "bos" if config.bos else 'layout = "packed"'
        raise CorpusError(f"{source.address}: {setting} is for text; this file has tokens already")


def _find_index(source: Source) -> Source | None:
    """The .idx beside a .bin, or beside the parts that it is one of."""
    path = replace(source, address=source.path).plain_name
    whole = PART_NAME.sub("", path)
    stems = [
        Path(name).with_suffix("").as_posix() if source.is_local else name[: -len(".bin")] for name in (path, whole)
    ]
    return find_sibling(source, [f"{stem}.idx{end}" for stem in stems for end in ("", ".gz", ".zst")])


def _open_megatron(sources: Sequence[Source], indexes: Sequence[Source | None]) -> _Opened:
    pairs: dict[str, tuple[Source, list[Source]]] = {}
    for source, index in zip(sources, indexes, strict=True):
        if index is None:
            raise CorpusError(
                f'{source.address}: no .idx beside it; expected one, or format = "document" for all files'
            )
        pairs.setdefault(index.path, (index, []))[1].append(source)
    members: list[Rows] = []
    content: list[str] = []
    for index, parts in pairs.values():
        if len(parts) > 1:
            check_parts(parts)
        index_parts, data = Parts([unpack(index)]), Parts([unpack(part) for part in parts])
        members.append(MegatronRows(data, MegatronIndex(index_parts)))
        content += [digest_bytes(index_parts), digest_bytes(data)]
    return _Opened(members, {"format": "megatron", "content": content})


def _open_arrays(sources: Sequence[Source], config: CorpusConfig) -> _Opened:
    arrays = [unpack(source) for source in sources]
    rows = [open_npy(array, row_tokens=config.row_tokens) for array in arrays]
    facts: dict[str, object] = {
        "format": "npy",
        "content": [digest_bytes(Parts([array])) for array in arrays],
        "row_tokens": [member.row_tokens for member in rows],
    }
    return _Opened([*rows], facts)


def _open_fields(
    sources: Sequence[Source], config: CorpusConfig, base: Path | None, default_tokenizer: str | None
) -> _Opened:
    sources = [unpack(source) if source.suffix in TABLE_SUFFIXES else source for source in sources]
    column = _choose_column(sources, config)
    if column is None or column.kind == "text":
        return _open_text(sources, config, column, _required_tokenizer(sources[0], config, base, default_tokenizer))
    _refuse_text_settings(sources[0], config)
    content = [digest_bytes(Parts([source])) for source in sources]
    facts: dict[str, object] = {"format": "tokens", "content": content, "column": column.name}
    if all(source.suffix in TABLE_SUFFIXES for source in sources):
        return _Opened([TableRows(Table(source), column=column.name) for source in sources], facts)
    recipe = Recipe(
        layout="documents",
        row_tokens=config.row_tokens,
        column=column,
        tokenizer=None,
        bos_id=None,
        separator_id=None,
    )
    return _Opened([_prepare_rows(sources, recipe, facts)], facts)


def _choose_column(sources: Sequence[Source], config: CorpusConfig) -> Column | None:
    """The column of the first file with fields, checked to be in every table; None for plain text."""
    kind: ColumnKind | None = None if config.format == "auto" else ("text" if config.format == "text" else "tokens")
    column: Column | None = None
    for source in sources:
        is_table = source.suffix in TABLE_SUFFIXES
        if not is_table and (column is not None or source.suffix not in JSON_LINES_SUFFIXES):
            continue
        fields = Table(source).fields if is_table else read_fields(source)
        wanted = config.column if column is None else column.name
        wanted_kind = kind if column is None else column.kind
        column = choose_column(fields, wanted=wanted, kind=wanted_kind, where=source.address)
    if column is None and config.column is not None:
        raise CorpusError(f"{sources[0].address}: plain text has no column {config.column!r}; expected no `column`")
    if column is not None and column.kind == "tokens" and any(_is_whole(source) for source in sources):
        raise CorpusError(f"{sources[0].address}: token lists and plain text in one corpus; expected one kind")
    return column


def _is_whole(source: Source) -> bool:
    return source.suffix not in (*TABLE_SUFFIXES, *JSON_LINES_SUFFIXES)


def _open_text(
    sources: Sequence[Source], config: CorpusConfig, column: Column | None, tokenizer: TextTokenizer
) -> _Opened:
    is_packed = config.layout == "packed"
    recipe = Recipe(
        layout=config.layout,
        row_tokens=config.row_tokens,
        column=column,
        tokenizer=tokenizer,
        bos_id=tokenizer.bos_id if config.bos else None,
        separator_id=tokenizer.end_of_text_id if is_packed else None,
    )
    facts: dict[str, object] = {
        "format": "text",
        "content": [digest_bytes(Parts([source])) for source in sources],
        "kinds": [source.suffix for source in sources],
        "column": None if column is None else column.name,
        "layout": config.layout,
        "row_tokens": config.row_tokens if is_packed else None,
        "tokenizer": tokenizer.digest,
        "bos_id": recipe.bos_id,
        "separator_id": recipe.separator_id,
    }
    return _Opened([_prepare_rows(sources, recipe, facts)], facts)


def _prepare_rows(sources: Sequence[Source], recipe: Recipe, facts: Mapping[str, object]) -> TokenizedRows:
    kinds = [(source.suffix, source.compression) for source in sources]
    key = digest_facts({**facts, "kinds": kinds, "cache_version": _CACHE_VERSION})
    folder = prepare(key, lambda building: write_rows(building, sources=sources, recipe=recipe))
    return TokenizedRows(folder, sources=sources)


def _required_tokenizer(
    source: Source, config: CorpusConfig, base: Path | None, default_tokenizer: str | None
) -> TextTokenizer:
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer, base=base)
    if default_tokenizer is None:
        raise CorpusError(
            f"{source.address}: text needs a tokenizer; "
            "set `tokenizer` to a tokenizer.json, a folder that holds one, or a hub name"
        )
    return load_tokenizer(default_tokenizer, base=base)


def _reader_tokenizer(config: CorpusConfig, base: Path | None, default_tokenizer: str | None) -> TextTokenizer | None:
    """What shows tokens as text: one named must be there, the model's own may be missing."""
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer, base=base)
    try:
        return None if default_tokenizer is None else load_tokenizer(default_tokenizer, base=base)
    except CorpusError:
        return None
