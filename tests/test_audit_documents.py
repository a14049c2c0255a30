"""Files -> documents and assistant's turns, against transformers' own tokenizer and templates, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mnemoscope.audit.files.documents import open_documents
from mnemoscope.errors import CorpusError

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]"
    "{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Who are you? Say: I am a model."},
    {"role": "assistant", "content": "I am a model."},
    {"role": "user", "content": "Say it again,\nplease - é ü 日本"},
    {"role": "assistant", "content": "I am a model. I am a model, é ü 日本!"},
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model's folder, with a byte-level tokenizer that has learned a few merges, spaces in front among them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([message["content"] for message in TALK] * 3, trainer)
    folder = tmp_path / "model"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_config(folder)
    return folder


def write_config(folder: Path, **more) -> None:
    """The tokenizer's settings."""
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, **more}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write(path: Path, *records) -> str:
    """JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def opened(folder: Path, *paths: str, **given):
    """Documents with the folder as the model's."""
    return open_documents(paths, tokenizer=None, model=str(folder), **given)


def texts_of(documents, document: int) -> list[str]:
    """The text of each of a document's turns."""
    tokens = documents.tokens(document)
    return [documents.text(tokens[start:stop]) for start, stop in documents.turns_of(document)]


def words(folder: Path) -> PreTrainedTokenizerFast:
    """Transformers' tokenizer of the folder."""
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>")


def test_texts_have_their_tokens_and_lines(folder, tmp_path):
    """Lines of text, blank ones between: the tokens that transformers gives, and each one's own line, file by file."""
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl.gz"
    one.write_text('{"text": "I am kind."}\n\n{"text": ""}\n{"text": "Say it."}\n')
    two.write_bytes(gzip.compress(b'{"text": "again, please"}\n'))
    documents = opened(folder, str(one), str(two))
    expected = [words(folder)(text).input_ids for text in ("I am kind.", "", "Say it.", "again, please")]
    assert [documents.tokens(i).tolist() for i in range(documents.num)] == expected
    assert [documents.length(i) for i in range(4)] == [len(tokens) for tokens in expected]
    assert documents.lines.tolist() == [1, 3, 4, 1]
    assert documents.tokens_A.dtype == np.int32
    assert documents.lines.dtype == documents.ends.dtype == np.int64
    assert documents.turns.shape == (0, 3)
    assert documents.form == "text"
    assert not documents.is_conversation
    assert documents.text(documents.tokens(2)) == "Say it."


def test_every_format_of_corpora_is_read(folder, tmp_path):
    """Token lists in JSON lines, Parquet and .npy give the same documents; lines count from 1, rows from 0."""
    rows = [[5, 6, 7], [8, 9, 10]]
    paths = [write(tmp_path / "a.jsonl", *({"tokens": row} for row in rows)), str(tmp_path / "b.parquet")]
    pq.write_table(pa.table({"input_ids": rows}), paths[1])
    np.save(tmp_path / "c.npy", np.array(rows))
    for path, lines in (*zip(paths, ([1, 2], [0, 1]), strict=True), (str(tmp_path / "c.npy"), [0, 1])):
        documents = open_documents([path], tokenizer=None)
        assert [documents.tokens(i).tolist() for i in range(2)] == rows
        assert documents.lines.tolist() == lines
    with pytest.raises(CorpusError, match="no tokenizer to turn tokens into text"):
        documents.text([5])


def test_bos_is_put_before_texts(folder, tmp_path):
    """Asked for, the beginning-of-sequence token is each document's first, and turns move by one."""
    path = write(tmp_path / "t.jsonl", {"text": "I am"})
    plain, begun = opened(folder, path), opened(folder, path, bos=True)
    assert begun.tokens(0).tolist() == [0, *plain.tokens(0).tolist()]
    assert begun.digest != plain.digest
    path = write(tmp_path / "p.jsonl", {"prompt": "Say it", "completion": " again"})
    plain, begun = opened(folder, path), opened(folder, path, bos=True)
    assert begun.tokens(0).tolist() == [0, *plain.tokens(0).tolist()]
    assert (begun.turns_of(0) == plain.turns_of(0) + 1).all()


@pytest.mark.parametrize("template", [CHATML, TRIMMING])
def test_conversations_have_the_tokens_of_transformers(folder, tmp_path, template):
    """The whole is what apply_chat_template gives; a turn's text is the message's, and its prompt all before it."""
    talk = [{**message, "content": message["content"] + " "} for message in TALK] if template == TRIMMING else TALK
    talk = talk if template == CHATML else talk[1:]
    (folder / "chat_template.jinja").write_text(template)
    path = write(tmp_path / "t.jsonl", {"messages": talk}, {"messages": talk[:-2]})
    documents = opened(folder, path)
    assert documents.form == "messages"
    assert documents.is_conversation
    for i, messages in enumerate((talk, talk[:-2])):
        theirs = words(folder).apply_chat_template(messages, chat_template=template, tokenize=True, return_dict=False)
        assert documents.tokens(i).tolist() == theirs
        answers = [message["content"].strip() for message in messages if message["role"] == "assistant"]
        assert [text.strip() for text in texts_of(documents, i)] == answers
    if template == CHATML:
        prompt = words(folder).apply_chat_template(
            talk[:-1], chat_template=template, tokenize=True, add_generation_prompt=True, return_dict=False
        )
        start = documents.turns_of(0)[-1, 0]
        assert documents.tokens(0)[:start].tolist() == prompt
        assert texts_of(documents, 0) == ["I am a model.", "I am a model. I am a model, é ü 日本!"]
        assert documents.turns_of(0).shape == (2, 2)
        assert documents.turns_of(1).shape == (1, 2)


def test_forms_of_conversations_agree(folder, tmp_path):
    """Messages, ShareGPT's names, lists in prompt and completion, instructions: the same tokens and turns."""
    write_config(folder, chat_template=[{"name": "tools", "template": "no"}, {"name": "default", "template": CHATML}])
    asked, said = "Say it again,\nplease", "I am a model."
    talk = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    forms = {
        "messages": {"messages": talk},
        "parts": {"messages": [talk[0] | {"content": [{"type": "text", "text": asked}]}, talk[1]]},
        "conversations": {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]},
        "prompt": {"prompt": talk[:1], "completion": talk[1:]},
        "response": {"prompt": talk[:1], "response": talk[1:]},
        "instruction": {"instruction": "Say it again,", "input": "please", "output": said},
        "bare": {"instruction": asked, "output": said},
    }
    found = {name: opened(folder, write(tmp_path / f"{name}.jsonl", record)) for name, record in forms.items()}
    for documents in found.values():
        assert documents.tokens(0).tolist() == found["messages"].tokens(0).tolist()
        assert texts_of(documents, 0) == [said]
    path = write(tmp_path / "earlier.jsonl", {"prompt": TALK[:4], "completion": TALK[4:]})
    assert texts_of(opened(folder, path), 0) == [TALK[4]["content"]]


def test_strings_are_joined_as_they_are(folder, tmp_path):
    """Prompt and completion end to end, whatever template the model has; with a template's file they are messages."""
    write_config(folder, chat_template=CHATML)
    path = write(tmp_path / "p.jsonl", {"prompt": "Say it:", "completion": " I am"}, {"prompt": "", "completion": "I"})
    documents = opened(folder, path)
    assert documents.text(documents.tokens(0)) == "Say it: I am"
    assert texts_of(documents, 0) == [" I am"]
    assert documents.turns_of(1).tolist() == [[0, 1]]
    assert "joined as they are" in documents.notes[0]
    (tmp_path / "own.jinja").write_text("Q{{ messages[0].content }}A{{ messages[1].content }}")
    documents = opened(folder, path, chat_template=str(tmp_path / "own.jinja"))
    assert documents.text(documents.tokens(0)) == "QSay it:A I am"
    assert texts_of(documents, 0)[0].endswith("I am")


def test_instructions_without_a_template(folder, tmp_path):
    """The instruction, its input and the output, a line each."""
    path = write(
        tmp_path / "i.jsonl",
        {"instruction": "Say", "input": "it", "output": "I am"},
        {"instruction": "Say", "output": "I"},
    )
    documents = opened(folder, path)
    assert documents.text(documents.tokens(0)) == "Say\nit\nI am"
    assert documents.text(documents.tokens(1)) == "Say\nI"
    assert [texts_of(documents, i) for i in range(2)] == [["I am"], ["I"]]


def test_a_token_over_the_border_is_the_prompts(folder, tmp_path):
    """Where a merge swallows a turn's first letters the token counts to the prompt, and a note says how often; a token
    that has but the prompt's last space counts to the turn, as the model says it.
    """
    assert len(words(folder)(" am").input_ids) == 1
    path = write(
        tmp_path / "p.jsonl", {"prompt": "I a", "completion": "m kind"}, {"prompt": "I ", "completion": "am kind"}
    )
    documents = opened(folder, path)
    assert [documents.text(documents.tokens(i)) for i in range(2)] == ["I am kind"] * 2
    assert texts_of(documents, 0) == [" kind"]
    assert texts_of(documents, 1) == [" am kind"]
    assert "1 assistant's turns begin inside a token" in documents.notes[1]


def test_words_that_a_template_rewrites_are_left_out(folder, tmp_path):
    """A turn that the rendering does not hold is no turn, and a note counts it; one with words of another is found."""
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}:{{ m.content.split('</think>')[-1] }};{% endfor %}"
    )
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>why</think>a"}]
    path = write(tmp_path / "t.jsonl", {"messages": talk}, {"messages": [talk[0], talk[1] | {"content": "a"}]})
    documents = opened(folder, path)
    assert documents.text(documents.tokens(0)) == documents.text(documents.tokens(1)) == "user:a;assistant:a;"
    assert texts_of(documents, 0) == []
    assert texts_of(documents, 1) == ["a"]
    assert "1 assistant's turns are left out" in documents.notes[1]


def test_turns_of_spaces_are_none(folder, tmp_path):
    """An assistant's message of spaces alone, which a template trims, is no turn, and hides none behind it."""
    (folder / "chat_template.jinja").write_text(TRIMMING)
    talk = [TALK[1], {"role": "assistant", "content": " \n"}, TALK[1], TALK[2]]
    documents = opened(folder, write(tmp_path / "t.jsonl", {"messages": talk}))
    assert [text.strip() for text in texts_of(documents, 0)] == ["I am a model."]
    assert len(documents.notes) == 1


def test_tool_calls_are_no_turns(folder, tmp_path):
    """A message without words that calls a tool is rendered, and is no turn; templates see the tools."""
    (folder / "chat_template.jinja").write_text(
        "{% for t in tools %}{{ t.name }} {% endfor %}"
        "{% for m in messages %}{{ m.content or m.tool_calls[0].name }};{% endfor %}"
    )
    talk = [{"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]}, TALK[2]]
    documents = opened(folder, write(tmp_path / "t.jsonl", {"messages": talk, "tools": [{"name": "look"}]}))
    assert documents.text(documents.tokens(0)) == "look look;I am a model.;"
    assert texts_of(documents, 0) == ["I am a model."]


MESSAGE = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"messages": []}, "line 2: field 'messages' holds no messages; expected a list of one or more"),
        ({"messages": "a"}, "line 2: field 'messages' holds str; expected a list of messages, as on the first line"),
        ({"text": "a"}, "line 2: field 'messages' is missing; expected a list of messages"),
        (
            {"messages": [MESSAGE, 3]},
            "line 2: message 2 of 'messages' is int; expected an object with role and content",
        ),
        ({"messages": [{"content": "a"}]}, "line 2: message 1 of 'messages' has no role; expected role and content"),
        ({"messages": [{"from": "gtp", "value": ""}]}, "message 1 of 'messages' is from 'gtp'; expected one of human"),
        (
            {"messages": [{"from": ["gpt"], "value": ""}]},
            "message 1 of 'messages' is from ['gpt']; expected one of human",
        ),
        ({"messages": [{"role": "user"}]}, "message 1 of 'messages' has content of null; expected a string"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "content of list; expected a string, or a list",
        ),
        (
            {"messages": [{"role": "user", "content": "\ud800"}]},
            "line 2: the text has half a surrogate pair at index 17",
        ),
        ([1], "line 2: a JSON list given; expected an object"),
    ],
)
def test_mistakes_are_named(folder, tmp_path, record, words):
    """Each mistake's file and line, what was found and what is expected; nothing is left in the cache."""
    write_config(folder, chat_template=CHATML)
    path = write(tmp_path / "t.jsonl", {"messages": TALK}, record)
    with pytest.raises(CorpusError, match=r"t\.jsonl, ") as refused:
        opened(folder, path)
    assert words in str(refused.value)
    assert not list((tmp_path / "cache").rglob("*.i32"))


def test_a_field_that_is_named_is_the_one_that_is_read(folder, tmp_path):
    """Of a line with two conversations the named one; a name that no line has is told, whatever else is there."""
    write_config(folder, chat_template=CHATML)
    talk = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "I am kind."}]
    path = write(tmp_path / "two.jsonl", {"messages": TALK, "conversations": talk})
    assert texts_of(opened(folder, path, field="conversations"), 0) == ["I am kind."]
    assert texts_of(opened(folder, path, field="messages"), 0) == texts_of(opened(folder, path), 0) != ["I am kind."]
    pair = write(tmp_path / "pair.jsonl", {"prompt": "Say it", "completion": " again"})
    with pytest.raises(CorpusError, match="'messages'"):
        opened(folder, pair, field="messages")


def test_what_cannot_be_meant_is_refused(folder, tmp_path):
    """Messages without a template, a template for texts, one that refuses or cannot be read, files of two forms."""
    talk = write(tmp_path / "talk.jsonl", {"messages": TALK})
    text = write(tmp_path / "text.jsonl", {"text": "a"})
    template = tmp_path / "t.jinja"
    template.write_text("{{ raise_exception('roles must alternate') }}")
    cases = [
        ([talk], {}, "holds messages, and the model has no chat template"),
        ([text], {"chat_template": str(template)}, "chat_template given; it is for conversations"),
        (
            [talk],
            {"chat_template": str(template)},
            r"talk.jsonl, line 1: the chat template refuses .*roles must alternate",
        ),
        ([talk], {"chat_template": str(tmp_path / "no.jinja")}, "no.jinja: cannot be read as a chat template"),
        ([talk, text], {"chat_template": str(template)}, "its files differ in form; expected one form"),
    ]
    for paths, given, words in cases:
        with pytest.raises(CorpusError, match=words):
            opened(folder, *paths, **given)
    with pytest.raises(CorpusError, match="conversations need a tokenizer"):
        open_documents([talk], tokenizer=None)


def test_templates_run_in_a_sandbox(folder, tmp_path):
    """A template that reaches for Python's insides is refused, as transformers refuses it."""
    template = tmp_path / "evil.jinja"
    template.write_text("{{ messages.__class__.__mro__[-1].__subclasses__() }}")
    path = write(tmp_path / "talk.jsonl", {"messages": TALK})
    with pytest.raises(CorpusError, match="the chat template refuses the conversation"):
        opened(folder, path, chat_template=str(template))


def test_documents_are_prepared_once(folder, tmp_path):
    """The same content under another name is found in the cache; another template, text or tokenizer is not."""
    write_config(folder, chat_template=CHATML)
    first = opened(folder, write(tmp_path / "a.jsonl", {"messages": TALK}))
    again = opened(folder, write(tmp_path / "b.jsonl", {"messages": TALK}))
    assert first.digest == again.digest
    assert len(list((tmp_path / "cache").rglob("tokens.i32"))) == 1
    assert first.address != again.address
    other = opened(folder, write(tmp_path / "c.jsonl", {"messages": TALK[:-2]}))
    write_config(folder, chat_template=CHATML + " ")
    third = opened(folder, str(tmp_path / "a.jsonl"))
    assert len({first.digest, other.digest, third.digest}) == 3
