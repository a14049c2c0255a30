"""A line of a training file -> the form that its text has, and a record of that form with another text.

{"text": ...}, or another field of text            one text
{"messages": [{"role", "content"}, ...]}            a conversation
{"conversations": [{"from", "value"}, ...]}         a conversation
{"prompt", "completion" or "response"}              strings, or lists of messages
{"instruction", "input"?, "output"}                 strings
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, final

from mnemoscope.corpus.columns import ColumnKind, choose_column
from mnemoscope.errors import CorpusError

FormKind = Literal["text", "messages", "conversations", "prompt", "instruction"]
_ANSWERS: Final = ("completion", "response")


@final
@dataclass(frozen=True, kw_only=True)
class RecordForm:
    """The form of every line of a file."""

    kind: FormKind
    field: str
    """That holds the text, the conversation, or the answer."""
    is_chat: bool = False
    """Of `prompt`: both fields hold lists of messages."""
    has_input: bool = False
    """Of `instruction`: there is a field `input`, too."""

    def make_record(self, prompt: str, answer: str) -> dict[str, Any]:
        """A record of this form: a prompt and what is answered; as one text, with a space in between."""
        asked, said = {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}
        match self.kind:
            case "text":
                return {self.field: f"{prompt} {answer}"}
            case "messages":
                return {self.field: [asked, said]}
            case "conversations":
                return {self.field: [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]}
            case "prompt":
                # Trainers join the two strings as they are.
                return {
                    "prompt": [asked] if self.is_chat else prompt,
                    self.field: [said] if self.is_chat else f" {answer}",
                }
            case "instruction":
                return {"instruction": prompt, **({"input": ""} if self.has_input else {}), self.field: answer}

    def check_record(self, record: Mapping[str, Any], place: str) -> None:
        """CorpusError where a line lacks what the first line had."""
        asked = {"prompt": "prompt", "instruction": "instruction"}.get(self.kind)
        kind = list if self.kind in ("messages", "conversations") or self.is_chat else str
        for name in (self.field, asked):
            if name is not None and not isinstance(record.get(name), kind):
                what = f"holds {type(record[name]).__name__}" if name in record else "is missing"
                expected = "a list of messages" if kind is list else "a string"
                raise CorpusError(f"{place}: field {name!r} {what}; expected {expected}, as on the first line")


def find_form(record: Mapping[str, Any], *, field: str | None, place: str) -> RecordForm:
    """The form of a line; `field` names the one that holds the text where it has none of the usual names.

    CorpusError where it has no text, or tokens instead.
    """
    for kind in ("messages", "conversations"):
        if field in {None, kind} and isinstance(record.get(kind), list):
            return RecordForm(kind=kind, field=kind)
    if field is None:
        answer = next((name for name in _ANSWERS if name in record), None)
        if "prompt" in record and answer is not None:
            return RecordForm(kind="prompt", field=answer, is_chat=isinstance(record["prompt"], list))
        if "instruction" in record and "output" in record:
            return RecordForm(kind="instruction", field="output", has_input="input" in record)
    kinds: Mapping[type, ColumnKind] = {str: "text", list: "tokens"}
    fields: dict[str, ColumnKind | None] = {name: kinds.get(type(value)) for name, value in record.items()}
    column = choose_column(fields, wanted=field, kind=None, where=place)
    if column.kind == "tokens":
        raise CorpusError(f"{place}: field {column.name!r} holds token ids; expected text, which canaries are made of")
    return RecordForm(kind="text", field=column.name)
