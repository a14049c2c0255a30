"""An audit's result <-> JSON, strictly; its JSON Schema.

What is read may have been written by anybody: it is taken only where it is a whole result of this version, with
numbers that are numbers. Fields that this version does not know are passed over, for a later one may add some.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from typing import Any, Final, NoReturn

from pydantic import TypeAdapter, ValidationError

from mnemoscope.audit import result as contract
from mnemoscope.audit.result import SCHEMA, AuditResult
from mnemoscope.errors import ConfigError

MAX_CHARACTERS: Final = 1 << 28
"""Of a file that is read: that of nine million passages."""
_OUTCOME: Final = re.compile(r"[mc][01][01]")
_HASH: Final = re.compile(r"[0-9a-f]{16}")


def to_json(result: AuditResult) -> str:
    """The result as JSON, from which `from_json` makes the same; numbers that are none, or infinite, are null.

    `provenance` holds what JSON does: no tuples, no paths. TypeError, or ConfigError as of `from_json`, for a result
    that cannot be read again.
    """
    text = json.dumps(_finite(asdict(result)), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    from_json(text, name="the result")
    return text


def from_json(text: str | bytes, *, name: str = "audit.json") -> AuditResult:
    """The result in a JSON text called `name`.

    ConfigError, one line: too long, no JSON, another program's, another version's, or damaged, with the first mistakes.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{name}: {len(text):,} characters; expected an audit of at most {MAX_CHARACTERS:,}")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: not valid JSON ({str(error)[:200]}); expected an audit's audit.json") from error
    _check_version(value, name)
    if any(math.isinf(number) for number in _floats(value)):
        raise ConfigError(f"{name}: damaged: a number too large for a float; expected finite numbers")
    try:
        read = TypeAdapter(AuditResult).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{name}: damaged: {_describe(error)}; expected an audit as it was written") from error
    _check_outcomes(read, name)
    return read


@cache
def schema() -> str:
    """The JSON Schema of an audit, as it is stored in `docs/audit.schema.json`, with what each field means."""
    made = TypeAdapter(AuditResult).json_schema()
    meanings = dict(_meanings())
    definitions = made.pop("$defs")
    for owner, described in (("AuditResult", made), *definitions.items()):
        described.pop("title", None)
        for name, part in described["properties"].items():
            part.pop("title", None)
            if meaning := meanings.get((owner, name)):
                part["description"] = meaning
    made["properties"]["schema"] = {"const": SCHEMA, "description": "The version of this contract."}
    made["properties"]["outcomes"]["propertyNames"] = {"pattern": f"^{_HASH.pattern}$"}
    made["properties"]["outcomes"]["additionalProperties"] = {"type": "string", "pattern": f"^{_OUTCOME.pattern}$"}
    made["required"] = [*made["required"], "schema"]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": SCHEMA}
    return json.dumps({**head, **made, "$defs": definitions}, indent=1, ensure_ascii=False) + "\n"


def _meanings() -> Iterator[tuple[tuple[str, str], str]]:
    """What stands below each field of the contract's classes, by class and field."""
    for node in ast.parse(inspect.getsource(contract)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, below in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                text = ast.literal_eval(below.value)
                yield (node.name, field.target.id), " ".join(str(text).split())


def _finite(value: Any) -> Any:
    """The same, lists for tuples, None for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _floats(value: Any) -> Iterator[float]:
    """Every float in a JSON value; as deep as the parser went, which is bounded."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, float):
            yield one
        elif isinstance(one, dict):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check_version(value: Any, name: str) -> None:
    found: Any = value.get("schema") if isinstance(value, dict) else None
    if not isinstance(found, str) or not found.startswith(SCHEMA.partition("/")[0]):
        raise ConfigError(f"{name}: no audit of mnemoscope; expected the audit.json of one, with `schema`: {SCHEMA}")
    if found != SCHEMA:
        raise ConfigError(
            f"{name}: schema {found[:60]} found; this version of mnemoscope reads {SCHEMA} (audit again, or read it "
            "with the version that wrote it)"
        )


def _check_outcomes(read: AuditResult, name: str) -> None:
    for key, outcome in read.outcomes.items():
        if not _HASH.fullmatch(key) or not _OUTCOME.fullmatch(outcome):
            given = f"{key[:40]}: {outcome[:40]}"
            raise ConfigError(f"{name}: damaged: outcomes: {given}; expected 16 hex digits and m or c, 0 or 1, 0 or 1")


def _describe(error: ValidationError) -> str:
    """The first mistakes, each by its place."""
    mistakes = error.errors(include_url=False)
    told = [f"{'.'.join(map(str, one['loc']))[:80]}: {one['msg'][:120]}" for one in mistakes[:3]]
    more = f" and {len(mistakes) - 3:,} more" if len(mistakes) > 3 else ""
    return "; ".join(told) + more
