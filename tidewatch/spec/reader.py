"""Read specs from YAML, with errors that name the file, the line and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from tidewatch.errors import SpecError
from tidewatch.spec.model import Spec

BUILTIN = Path(__file__).parent / "builtin"
Location = tuple[str | int, ...]


class Specs(Mapping[str, Spec]):
    """Specs by name, in the order of their names."""

    def __init__(self, specs: dict[str, Spec]) -> None:
        self._specs = dict(sorted(specs.items()))

    def __getitem__(self, name: str) -> Spec:
        return self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def require(self, name: str) -> Spec:
        """Raise SpecError, naming near misses, when there is no such pipeline."""
        if name in self._specs:
            return self._specs[name]
        near = difflib.get_close_matches(name, self._specs, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise SpecError(f"there is no pipeline {name!r}", fix=f"{hint}known pipelines: {', '.join(self._specs)}")


def load_all(directory: Path, *, builtin: bool = True) -> Specs:
    """Every `*.yaml` of `directory`, and with `builtin` our own pipelines.

    Raises SpecError for a directory without specs, a bad spec, or two specs that share a name, a topic, a table
    or a route.
    """
    files = sorted(directory.glob("*.yaml")) if directory.is_dir() else []
    if not files:
        raise SpecError(
            "no pipeline spec found", where=str(directory), fix="add pipelines/<name>.yaml, or set TIDEWATCH_PIPELINES"
        )
    found: dict[Path, Spec] = {path: load(path) for path in files}
    if builtin:
        found |= {path: load(path) for path in sorted(BUILTIN.glob("*.yaml"))}
    _refuse_shared(found)
    return Specs({spec.name: spec for spec in found.values()})


def load(path: Path) -> Spec:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"cannot be read: {error}", where=str(path), fix="check the path, its permissions and its encoding (UTF-8)"
        ) from error
    return parse(text, str(path))


def parse(text: str, where: str) -> Spec:
    """`where` names the source of `text` in errors."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise SpecError(f"not valid YAML: {problem}", where=where + line, fix="mend the YAML at that line") from error
    if not isinstance(data, dict):
        raise SpecError("a spec is a mapping", where=where, fix="begin with `name: …`; see docs/add-a-pipeline.md")
    _refuse_duplicate_keys(node, where)
    try:
        return Spec.model_validate(data)
    except ValidationError as error:
        raise _explained(error, node, where) from error


def _explained(error: ValidationError, node: yaml.Node | None, where: str) -> SpecError:
    # A mistyped key is also a missing one; the typing error says more.
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    lines = [_line(node, problem["loc"]) for problem in problems]
    texts = [f"{'.'.join(map(str, p['loc'])) or 'spec'}: {_message(p)}" for p in problems]
    first, *rest = [f"line {line}: {text}" for line, text in zip(lines, texts, strict=True)]
    more = "".join(f"; {text}" for text in rest)
    return SpecError(first.split(": ", 1)[1] + more, where=f"{where}:{lines[0]}", fix=_fix(problems[0]))


def _message(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        return "is not a key of a spec"
    return str(problem["msg"]).removeprefix("Value error, ")


def _fix(problem: Mapping[str, Any]) -> str:
    loc: Location = tuple(problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), _keys_at(loc[:-1]), n=1)
        if near:
            return f"did you mean {near[0]!r}?"
        return f"remove it; known keys there: {', '.join(_keys_at(loc[:-1]))}"
    if problem["type"] == "missing":
        return f"add `{loc[-1]}:`"
    return "change the value at that line; docs/add-a-pipeline.md lists what each key takes"


def _keys_at(loc: Location) -> list[str]:
    """The keys that the model knows at `loc`, by walking its annotations."""
    model: type[BaseModel] = Spec
    for part in loc:
        if isinstance(part, int):
            continue
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        nested = _model_in(field.annotation) if field else None
        if nested is None:
            return []
        model = nested
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if found := _model_in(argument):
            return found
    return None


def _line(node: yaml.Node | None, loc: Location) -> int:
    """The line of the deepest part of `loc` that stands in the document, counted from 1."""
    line = node.start_mark.line + 1 if node else 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            match = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if match is None:
                break
            line, node = match[0].start_mark.line + 1, match[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _refuse_duplicate_keys(node: yaml.Node | None, where: str) -> None:
    """YAML keeps the last of two equal keys without a word; a spec does not."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicate_keys(item, where)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if key.value in seen:
            line = key.start_mark.line + 1
            raise SpecError(f"{key.value} stands twice", where=f"{where}:{line}", fix="keep one of them")
        seen.add(key.value)
        _refuse_duplicate_keys(value, where)


def _refuse_shared(found: dict[Path, Spec]) -> None:
    taken: dict[tuple[str, str], Path] = {}
    for path, spec in found.items():
        claims = [
            ("name", spec.name),
            ("table", spec.table.name),
            ("topic", spec.topic.name),
            ("topic", spec.dead_letters.topic),
        ]
        claims += [("table", aggregate.name) for aggregate in spec.aggregates]
        claims += [("route", route) for route in (spec.source.path, spec.source.batch_path) if route]
        for claim in claims:
            kind, value = claim
            other = taken.setdefault(claim, path)
            if other != path:
                raise SpecError(
                    f"the {kind} {value} is taken by {other.name}",
                    where=str(path),
                    fix=f"give this pipeline another {kind}",
                )
