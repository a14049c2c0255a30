"""A chat template -> the text of a conversation, and where in it each message's own words stand.

Templates are Jinja, rendered by transformers in its sandbox, as its tokenizers do; no code of a model is run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, cast, final

from mnemoscope.corpus.sources import reason
from mnemoscope.errors import CorpusError

Message = Mapping[str, Any]
_ROLES: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Special tokens that templates may ask for by these names."""
_MARK: Final = "\uf8ff"
"""Of the private use area: stands where a message's words will stand, and is what no template trims or escapes."""


class Rendered(NamedTuple):
    """A conversation as the model reads it."""

    text: str
    spans: dict[int, tuple[int, int]]
    """By the message's number: first character of its words, and the one behind the last."""


@final
@dataclass(frozen=True)
class ChatTemplate:
    """A template, and the special tokens that it may ask for."""

    text: str
    special_tokens: Mapping[str, str]

    @property
    def digest(self) -> str:
        """sha256, hex, of all that decides what it renders."""
        content = json.dumps([self.text, dict(sorted(self.special_tokens.items()))])
        return hashlib.sha256(content.encode()).hexdigest()

    def render(self, messages: Sequence[Message], *, tools: object = None, place: str) -> str:
        """The text of a conversation; CorpusError, with the place, where the template refuses it."""
        from transformers.utils.chat_template_utils import render_jinja_template  # late: seconds

        render: Any = render_jinja_template
        try:
            rendered, _ = render([list(messages)], chat_template=self.text, tools=tools, **self.special_tokens)
        except Exception as error:  # a template is a program: whatever it raises, it refuses this conversation
            why = f"the chat template refuses the conversation ({reason(error)})"
            raise CorpusError(f"{place}: {why}; expected messages that it takes") from error
        return cast(str, rendered[0])

    def render_turns(
        self, messages: Sequence[Message], turns: Sequence[int], *, tools: object = None, place: str
    ) -> Rendered:
        """The text of a conversation, and where the words of some messages stand in it.

        They are found by a second rendering with marks in their place: the text between the marks must be the same.
        A message whose words the template rewrites is missing from `spans`, and so are those behind it.
        """
        text = self.render(messages, tools=tools, place=place)
        marks = {turn: f"{_MARK}{turn}{_MARK}" for turn in turns}
        if not turns or any(mark in text for mark in marks.values()):
            return Rendered(text, {})
        marked = [{**message, "content": marks[i]} if i in marks else message for i, message in enumerate(messages)]
        try:
            frame = self.render(marked, tools=tools, place=place)
        except CorpusError:  # a template that reads the words
            return Rendered(text, {})
        words = {turn: str(messages[turn]["content"]) for turn in turns}
        return Rendered(text, dict(_find_words(text, frame, marks, words)))


def _find_words(
    text: str, frame: str, marks: Mapping[int, str], words: Mapping[int, str]
) -> Iterator[tuple[int, tuple[int, int]]]:
    """Where each message's words stand, message by message, as far as the text follows the frame."""
    end = 0
    for turn, mark in marks.items():
        before, found, frame = frame.partition(mark)
        if not found or not text.startswith(before, end):
            return
        start, behind = end + len(before), frame.partition(_MARK)[0]
        for candidate in (words[turn], words[turn].strip(), words[turn].rstrip(), words[turn].lstrip()):
            if candidate and text.startswith(candidate, start) and text.startswith(behind, start + len(candidate)):
                end = start + len(candidate)
                break
        else:
            return
        yield turn, (start, end)


def find_template(path: str | None, *, sources: Sequence[str | None]) -> ChatTemplate | None:
    """The template of a Jinja file, or of the first of the model's and tokenizer's folders or hub names that has one.

    None where none has; CorpusError where the file cannot be read.
    """
    folders = [folder for source in sources if source is not None for folder in (_folder_of(source),) if folder]
    special_tokens = next((found for folder in folders if (found := _special_tokens(folder))), {})
    if path is not None:
        try:
            return ChatTemplate(Path(path).expanduser().read_text("utf-8"), special_tokens)
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(f"{path}: cannot be read as a chat template ({reason(error)})") from error
    text = next((found for folder in folders if (found := _template_of(folder))), None)
    return None if text is None else ChatTemplate(text, special_tokens)


def _folder_of(source: str) -> Path | None:
    """The folder of a local model or tokenizer, or of the hub's cache; None where there is none."""
    path = Path(source).expanduser()
    if path.exists():
        return path if path.is_dir() else path.parent
    from huggingface_hub import hf_hub_download  # late: a tenth of a second, only for hub names

    folder = None
    for name in ("chat_template.jinja", "special_tokens_map.json", "tokenizer_config.json"):
        try:
            folder = Path(hf_hub_download(source, name)).parent
        except (OSError, ValueError, RuntimeError):
            continue
    return folder


def _template_of(folder: Path) -> str | None:
    """The template beside a tokenizer: a file of its own, or in its settings (of several the one called default)."""
    try:
        return (folder / "chat_template.jinja").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        found = _settings(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in cast(list[Any], found) if isinstance(each, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _special_tokens(folder: Path) -> dict[str, str]:
    settings = _settings(folder / "special_tokens_map.json") | _settings(folder / "tokenizer_config.json")
    named = {name: settings.get(name) for name in _ROLES}
    contents = {name: token.get("content") if isinstance(token, dict) else token for name, token in named.items()}
    return {name: token for name, token in contents.items() if isinstance(token, str)}


def _settings(path: Path) -> dict[str, Any]:
    """A file's JSON object; empty where there is no such thing."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}
