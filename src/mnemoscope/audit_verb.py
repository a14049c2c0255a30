"""The verb `audit`: what a model recites of its training file, beside text that it never saw, as a verdict."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, final

from cyclopts import Group, Parameter

from mnemoscope.config import Device, Dtype, ModelConfig
from mnemoscope.engine_options import HERE, EngineOptions
from mnemoscope.errors import ConfigError

if TYPE_CHECKING:
    from mnemoscope.audit.findings import Wishes
    from mnemoscope.audit.result import AuditResult
    from mnemoscope.audit.settings import AuditSettings, Sampling

_FILES = Group("Files")
_MODEL = Group("Model")
_PASSAGES = Group("Passages")
_VERDICT = Group("Verdict")
_ENDPOINT = Group("Endpoint, instead of --model")
_SAMPLINGS = "1,0.7:40"


@final
@Parameter(name="*", group=_ENDPOINT)
@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """A model that only answers: text in, text out."""

    endpoint: str | None = None
    """URL of an OpenAI-compatible API, such as https://host/v1; its /completions is asked."""
    endpoint_model: Annotated[str | None, Parameter(group=_ENDPOINT)] = None
    """The name by which the server knows the model."""
    key_variable: Annotated[str | None, Parameter(group=_ENDPOINT)] = None
    """The environment variable that holds the API key."""
    requests_per_minute: Annotated[float | None, Parameter(group=_ENDPOINT)] = None
    """Most requests a minute, evenly spaced."""
    max_requests: Annotated[int | None, Parameter(group=_ENDPOINT)] = None
    """The budget in requests; what is left when it is spent is not asked."""
    max_tokens: Annotated[int | None, Parameter(group=_ENDPOINT)] = None
    """The budget in tokens, of prompts and answers."""
    insecure_http: Annotated[bool, Parameter(group=_ENDPOINT, negative="")] = False
    """Allow http to another machine: texts and key can be read on the way."""


NO_ENDPOINT = EndpointOptions()


def audit(
    *,
    train: Annotated[list[str], Parameter(group=_FILES, consume_multiple=True, negative="")],
    heldout: Annotated[list[str], Parameter(group=_FILES, consume_multiple=True, negative="")],
    model: Annotated[str | None, Parameter(group=_MODEL)] = None,
    out: Path = Path("audit"),
    canaries: Annotated[Path | None, Parameter(group=_FILES)] = None,
    baseline: Annotated[Path | None, Parameter(group=_VERDICT)] = None,
    thresholds: Annotated[Path | None, Parameter(group=_VERDICT)] = None,
    fail_on: Annotated[str, Parameter(group=_VERDICT)] = "",
    tokenizer: Annotated[str | None, Parameter(group=_FILES)] = None,
    field: Annotated[str | None, Parameter(group=_FILES)] = None,
    chat_template: Annotated[str | None, Parameter(group=_FILES)] = None,
    bos: Annotated[bool, Parameter(group=_FILES, negative="")] = False,
    contexts: Annotated[str, Parameter(group=_PASSAGES)] = "16,32,64",
    continuations: Annotated[str, Parameter(group=_PASSAGES)] = "16,32",
    offsets: Annotated[int, Parameter(group=_PASSAGES)] = 1,
    sample: Annotated[int | None, Parameter(group=_PASSAGES)] = None,
    samplings: Annotated[str, Parameter(group=_PASSAGES)] = _SAMPLINGS,
    near: Annotated[float, Parameter(group=_PASSAGES)] = 0.9,
    seed: Annotated[int, Parameter(group=_PASSAGES)] = 0,
    revision: Annotated[str | None, Parameter(group=_MODEL)] = None,
    dtype: Annotated[Dtype, Parameter(group=_MODEL)] = "float32",
    device: Annotated[Device, Parameter(group=_MODEL)] = "auto",
    batch_size: str = "auto",
    detector: Annotated[Literal["built-in", "detect-secrets"], Parameter(group=_VERDICT)] = "built-in",
    show_private: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
    black_box: EndpointOptions = NO_ENDPOINT,
    where: EngineOptions = HERE,
) -> None:
    """Is this model safe to release? Exit status 0: pass, 1: fail, 2: could not tell.

    Parameters
    ----------
    train
        The files it was trained on: JSON lines of text, conversations, prompts with completions; also text, Parquet,
        token files.
    heldout
        Files of the same kind that it never saw.
    model
        A folder with config.json and *.safetensors, or a hub name.
    out
        Folder of audit.json, summary.md and report.html; the same command again goes on where it was interrupted.
    canaries
        What `mnemoscope canaries` planted into the training file.
    baseline
        The audit.json of an earlier audit, to be compared passage by passage.
    thresholds
        TOML of what is accepted (default: docs/audit.md).
    fail_on
        The criteria that decide, separated by commas (default: all).
    tokenizer
        tokenizer.json, a folder with one, or a hub name (default: the model's own).
    field
        The field of JSON lines, or the column, that holds the text (default: found out).
    chat_template
        A Jinja file for conversations (default: the model's own).
    bos
        Put the beginning-of-sequence token before each text.
    contexts
        Context lengths k in tokens, separated by commas; of conversations the longest bounds the prompt.
    continuations
        Continuation lengths n in tokens.
    offsets
        Passages at random places of each document, besides its start.
    sample
        Documents of each side, drawn at random (default: all).
    samplings
        Ways of sampling whose chance to say a passage is computed: temperatures, each with :K for its top K tokens.
    near
        Least similarity of a near-verbatim continuation: 1 - token edit distance / n.
    seed
        Seed of --sample and --offsets.
    revision
        Hub branch, tag or commit, or the subfolder of a local model.
    dtype
        Number format of the model.
    device
        Where the model runs; auto takes cuda, then mps, then cpu.
    batch_size
        Passages per forward pass, or `auto`: by free memory.
    detector
        What looks for secrets in recited text: the built-in list, or with it the library detect-secrets (an extra).
    show_private
        Show text as it is, also what looks private.
    json
        Print audit.json instead of tables.
    black_box
        A model behind an endpoint.
    where
        The engine.
    """
    from mnemoscope.audit.settings import AuditSettings

    own = {
        "--revision": revision is not None,
        "--dtype": dtype != "float32",
        "--device": device != "auto",
        "--batch-size": batch_size != "auto",
        "--samplings": samplings != _SAMPLINGS,
        "--bos": bos,
        "--engine, --address, --workers": where != HERE,
    }
    _check_side(model, black_box, [name for name, is_given in own.items() if is_given])
    settings = AuditSettings(
        model=ModelConfig(source=model or "endpoint", revision=revision, dtype=dtype, device=device),
        train=tuple(train),
        heldout=tuple(heldout),
        tokenizer=tokenizer,
        field=field,
        chat_template=chat_template,
        bos=bos,
        contexts=_lengths("--contexts", contexts),
        continuations=_lengths("--continuations", continuations),
        offsets_per_document=offsets,
        sample=sample,
        samplings=_samplings(samplings),
        near_similarity=near,
        batch_size="auto" if batch_size == "auto" else _number("--batch-size", batch_size),
        seed=seed,
    )
    wishes = _wishes(thresholds, fail_on, canaries, baseline, detector=detector, redacted=not show_private)
    result = _audit(settings, out, wishes, black_box, where)
    _tell(result, out, as_json=json)


def _check_side(model: str | None, black_box: EndpointOptions, own: Sequence[str]) -> None:
    """ConfigError where it is not said what is audited, or where an option would have no effect on it.

    `own` names the options given that are only for a model at hand.
    """
    if (model is None) == (black_box.endpoint is None):
        raise ConfigError("--model, --endpoint: expected one of them")
    if model is None and own:
        raise ConfigError(f"{own[0]}: given with --endpoint, where it has no effect; expected it with --model only")
    if model is None and not black_box.endpoint_model:
        raise ConfigError("--endpoint-model: expected the name by which the endpoint knows the model")
    for each in fields(black_box):
        if model is not None and getattr(black_box, each.name) != each.default:
            raise ConfigError(f"--{each.name.replace('_', '-')}: given with --model; expected it with --endpoint only")


def _wishes(
    thresholds: Path | None,
    fail_on: str,
    canaries: Path | None,
    baseline: Path | None,
    *,
    detector: str,
    redacted: bool,
) -> Wishes:
    from mnemoscope.audit.findings import Wishes
    from mnemoscope.audit.thresholds import Thresholds, load_thresholds

    return Wishes(
        thresholds=Thresholds() if thresholds is None else load_thresholds(thresholds),
        fail_on=tuple(name.strip() for name in fail_on.split(",") if name.strip()),
        canaries=canaries,
        baseline=baseline,
        detector=detector,
        redacted=redacted,
    )


def _audit(
    settings: AuditSettings, out: Path, wishes: Wishes, black_box: EndpointOptions, where: EngineOptions
) -> AuditResult:
    from mnemoscope.progress import show_progress

    if black_box.endpoint is None:
        from mnemoscope.audit.auditing import run_audit

        engine = where.open()
        with show_progress(sys.stderr) as progress:
            return run_audit(settings, out, wishes, engine=engine, progress=progress)
    from mnemoscope.audit.black_box.answered import run_black_box
    from mnemoscope.audit.black_box.endpoint import Endpoint

    endpoint = Endpoint(
        url=black_box.endpoint,
        model=black_box.endpoint_model or "",
        key_variable=black_box.key_variable,
        requests_per_minute=black_box.requests_per_minute,
        max_requests=black_box.max_requests,
        max_tokens=black_box.max_tokens,
        insecure_http=black_box.insecure_http,
    )
    with show_progress(sys.stderr) as progress:
        return run_black_box(endpoint, settings, out, wishes, progress=progress)


def _tell(result: AuditResult, out: Path, *, as_json: bool) -> None:
    """The result on stdout, and the exit status that it means."""
    from mnemoscope.audit.verdict import EXIT_STATUS

    if as_json:
        from mnemoscope.audit.writing import to_json

        sys.stdout.write(to_json(result) + "\n")
    else:
        from rich.console import Console

        from mnemoscope.audit.printing import print_audit

        print_audit(result, out, Console())
    sys.exit(EXIT_STATUS[result.state])


def _samplings(text: str) -> tuple[Sampling, ...]:
    """Such as 1,0.7:40: temperature 1, and 0.7 over the 40 largest logits."""
    from mnemoscope.audit.settings import Sampling

    samplings: list[Sampling] = []
    for part in text.replace(" ", "").split(","):
        temperature, _, top_k = part.partition(":")
        try:
            numbers = float(temperature), int(top_k) if top_k else None
        except ValueError:
            raise ConfigError(f"--samplings: {part!r} given; expected TEMPERATURE or TEMPERATURE:TOP_K") from None
        samplings.append(Sampling(temperature=numbers[0], top_k=numbers[1]))
    return tuple(samplings)


def _lengths(option: str, text: str) -> tuple[int, ...]:
    return tuple(_number(option, part) for part in text.replace(" ", ",").split(",") if part)


def _number(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{option}: {text!r} given; expected whole numbers") from None
