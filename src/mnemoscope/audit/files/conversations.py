"""Conversations in JSON lines -> documents whose assistant's turns are known.

    {"messages": [{"role", "content"}, ...]}            every assistant's message is a turn
    {"conversations": [{"from", "value"}, ...]}         human, gpt, system: the same
    {"prompt": [...], "completion": [...]}              messages: the turns are the completion's
    {"prompt": "...", "completion": "..."}              the two strings end to end, as trainers join them
    {"instruction", "input"?, "output"}                 a user's message and the assistant's

`response` is as good as `completion`. Messages need a chat template. Strings are joined as they are, unless a template
is given as a file; an instruction without one is its lines, then the output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast, final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.audit.files.chat_template import ChatTemplate, Message, find_template
from mnemoscope.audit.files.record_forms import RecordForm, find_form
from mnemoscope.corpus.digest import digest_bytes
from mnemoscope.corpus.documents import JSON_LINES_SUFFIXES, place_document, read_records
from mnemoscope.corpus.parts import Parts
from mnemoscope.corpus.sources import Source, find_sources
from mnemoscope.corpus.tokenizer import TextTokenizer, load_tokenizer
from mnemoscope.errors import CorpusError

if TYPE_CHECKING:
    from tokenizers import Encoding

_CONVERSATIONS_AT_ONCE: Final = 256
_SPEAKERS: Final = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
}


class EncodedConversation(NamedTuple):
    """One line's conversation."""

    line: int
    tokens: NDArray[np.int64]
    turns: list[tuple[int, int]]
    """First token, and token behind the last, of each assistant's turn."""


class _Worded(NamedTuple):
    """One line's conversation as text."""

    line: int
    text: str
    spans: list[tuple[int, int]]
    """First character, and the one behind the last, of each assistant's turn."""


@final
@dataclass(frozen=True, kw_only=True)
class Conversations:
    """Files of conversations, ready to be encoded."""

    sources: Sequence[Source]
    form: RecordForm
    tokenizer: TextTokenizer
    template: ChatTemplate | None
    bos_id: int | None
    """Put before strings that are joined as they are; templates put their own."""
    counts: Counter[str] = field(default_factory=Counter)
    """What `encode` has met on its way."""

    def facts(self) -> Mapping[str, object]:
        """All that decides the tokens."""
        return {
            "content": [digest_bytes(Parts([source])) for source in self.sources],
            "compressions": [source.compression for source in self.sources],
            "form": [self.form.kind, self.form.field, self.form.is_chat],
            "tokenizer": self.tokenizer.digest,
            "template": None if self.template is None else self.template.digest,
            "bos_id": self.bos_id,
        }

    def encode(self) -> Iterator[EncodedConversation]:
        """The conversations in order; CorpusError names file and line, what was found there and what was expected."""
        for source in self.sources:
            worded = self._read(source)
            while batch := list(islice(worded, _CONVERSATIONS_AT_ONCE)):
                encoded = self.tokenizer.tokenizer.encode_batch([each.text for each in batch], add_special_tokens=False)
                for each, encoding in zip(batch, encoded, strict=True):
                    yield self._place_turns(each, encoding)

    def notes(self) -> tuple[str, ...]:
        """What a reader has to know of the conversations that were encoded."""
        how = (
            "a chat template renders the conversations; an assistant's turn is the words of its message"
            if self.template is not None
            else "no chat template is used: the prompt and what answers it are joined as they are"
        )
        told = {
            "straddling": "assistant's turns begin inside a token, which is counted to the prompt",
            "rewritten": "assistant's turns are left out, since the template changes their words",
        }
        return (how, *(f"{self.counts[name]} {words}" for name, words in told.items() if self.counts[name]))

    def _read(self, source: Source) -> Iterator[_Worded]:
        for line, record, _ in read_records(source):
            place = place_document(source, line)
            self.form.check_record(record, place)
            worded = self._word(record, line, place)
            _refuse_surrogates(worded.text, place)
            yield worded

    def _word(self, record: Mapping[str, Any], line: int, place: str) -> _Worded:
        if self.template is None:
            asked = _asked(record, self.form, place)
            asked = asked if self.form.kind == "prompt" else f"{asked}\n"
            said = str(record[self.form.field])
            return _Worded(line, asked + said, [(len(asked), len(asked) + len(said))])
        messages, first_turn = _read_messages(record, self.form, place)
        turns = [
            number
            for number, message in enumerate(messages)
            if number >= first_turn and message["role"] == "assistant" and str(message["content"] or "").strip()
        ]
        rendered = self.template.render_turns(messages, turns, tools=record.get("tools"), place=place)
        self.counts["rewritten"] += len(turns) - len(rendered.spans)
        return _Worded(line, rendered.text, list(rendered.spans.values()))

    def _place_turns(self, worded: _Worded, encoding: Encoding) -> EncodedConversation:
        """Which tokens are a turn's: those that end in it, but for one with letters of the prompt (spaces are none)."""
        tokens = np.array(encoding.ids, np.int64)
        ends = np.maximum.accumulate(np.array([end for _, end in encoding.offsets], np.int64))
        turns: list[tuple[int, int]] = []
        for start, stop in worded.spans:
            first, last = (int(place) for place in np.searchsorted(ends, [start, stop], side="right"))
            if first < last and worded.text[encoding.offsets[first][0] : start].strip():
                self.counts["straddling"] += 1
                first += 1
            if first < last:
                turns.append((first, last))
        if self.bos_id is not None:
            tokens = np.concatenate([np.array([self.bos_id], np.int64), tokens])
            turns = [(first + 1, last + 1) for first, last in turns]
        return EncodedConversation(worded.line, tokens, turns)


def open_conversations(
    paths: Sequence[str],
    *,
    tokenizer: str | None,
    field: str | None,
    chat_template: str | None,
    model: str | None,
    bos: bool = False,
) -> Conversations | None:
    """The conversations of files, told by the first line of each; None where it has another form.

    CorpusError where files differ in form, or messages have no template.
    """
    sources = find_sources(paths)
    if any(source.suffix not in JSON_LINES_SUFFIXES for source in sources):
        return None
    forms = [_find_form(source, field) for source in sources]
    form = forms[0]
    if form is None or any(other is None or other.kind != form.kind for other in forms):
        if any(forms):
            raise CorpusError(f"{sources[0].address}: its files differ in form; expected one form in all of them")
        return None
    loaded = tokenizer or model
    if loaded is None:
        raise CorpusError(f"{sources[0].address}: conversations need a tokenizer; set `tokenizer`")
    template = find_template(chat_template, sources=(model, tokenizer))
    joins = form.kind == "prompt" and not form.is_chat and chat_template is None
    template = None if joins else template
    if template is None and (form.is_chat or form.kind in ("messages", "conversations")):
        raise CorpusError(
            f"{sources[0].address}: holds messages, and the model has no chat template; "
            "expected one beside its tokenizer, or a Jinja file (set `chat_template`)"
        )
    opened = load_tokenizer(loaded, base=None)
    bos_id = opened.bos_id if bos and template is None else None
    return Conversations(sources=sources, form=form, tokenizer=opened, template=template, bos_id=bos_id)


def _find_form(source: Source, field: str | None) -> RecordForm | None:
    """The form of a file's first line; None where it is text or tokens, or nothing that is known here."""
    for line, record, _ in read_records(source):
        try:
            form = find_form(record, field=field, place=place_document(source, line))
        except CorpusError:  # whoever reads texts and tokens says what is wrong with them
            return None
        return None if form.kind == "text" else form
    return None


def _asked(record: Mapping[str, Any], form: RecordForm, place: str) -> str:
    """What is answered, in one string."""
    if form.kind == "prompt":
        return str(record["prompt"])
    given = record.get("input") or ""
    if not isinstance(given, str):
        raise CorpusError(f"{place}: field 'input' holds {type(given).__name__}; expected a string")
    return f"{record['instruction']}\n{given}" if given else str(record["instruction"])


def _read_messages(record: Mapping[str, Any], form: RecordForm, place: str) -> tuple[list[Message], int]:
    """The messages of a line, and the number of the first that may be a turn."""
    if form.kind in ("messages", "conversations"):
        return _check_messages(record[form.field], place, form.field), 0
    if form.is_chat:
        asked = _check_messages(record["prompt"], place, "prompt")
        return asked + _check_messages(record[form.field], place, form.field), len(asked)
    said = {"role": "assistant", "content": str(record[form.field])}
    return [{"role": "user", "content": _asked(record, form, place)}, said], 1


def _check_messages(messages: object, place: str, name: str) -> list[Message]:
    if not isinstance(messages, list) or not messages:
        raise CorpusError(f"{place}: field {name!r} holds no messages; expected a list of one or more")
    return [
        _check_message(message, f"{place}: message {number} of {name!r}")
        for number, message in enumerate(cast(list[object], messages), start=1)
    ]


def _check_message(message: object, place: str) -> Message:
    if not isinstance(message, dict):
        raise CorpusError(f"{place} is {type(message).__name__}; expected an object with role and content")
    given = cast(dict[str, Any], message)
    if "from" in given and "role" not in given:
        if not isinstance(given["from"], str) or given["from"] not in _SPEAKERS:
            raise CorpusError(f"{place} is from {given['from']!r}; expected one of {', '.join(_SPEAKERS)}")
        given = {"role": _SPEAKERS[given["from"]], "content": given.get("value")}
    if not isinstance(given.get("role"), str):
        raise CorpusError(f"{place} has no role; expected role and content, or from and value")
    return given | {"content": _words(given, place)}


def _words(message: Mapping[str, Any], place: str) -> str | None:
    """A message's words; None where it calls tools instead."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and message.get("tool_calls"):
        return None
    parts = cast(list[Any], content) if isinstance(content, list) else [None]
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if any(not isinstance(text, str) for text in texts):
        what = "null" if content is None else type(content).__name__
        raise CorpusError(f"{place} has content of {what}; expected a string, or a list of parts of type text")
    return "".join(cast(list[str], texts))


def _refuse_surrogates(text: str, place: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{place}: the text has half a surrogate pair at index {error.start}; expected whole characters"
        ) from error
