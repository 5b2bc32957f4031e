"""docs/add-a-pipeline.md says what each key takes, and its example is a pipeline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from ingest.schema import codes
from tidewatch.spec import Spec, load_all, parse
from tidewatch.spec.model import Aggregate, DeadLetters, Expect, Field, Objective, Rows, Schema, Source, Table, Topic
from tidewatch.spec.types import KNOWN

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-a-pipeline.md").read_text(encoding="utf-8")
SECTIONS: dict[str, type[BaseModel]] = {
    "Pipeline": Spec,
    "source": Source,
    "topic": Topic,
    "dead_letters": DeadLetters,
    "schema": Schema,
    "field": Field,
    "table": Table,
    "aggregates": Aggregate,
    "expect": Expect,
    "objective": Objective,
}


def documented(section: str) -> dict[str, str]:
    """Key → what it takes, from the table under the heading."""
    text = PAGE.split(f"\n### {section}\n", 1)[1].split("\n### ", 1)[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE))


@pytest.mark.parametrize("section", SECTIONS)
def test_each_section_names_the_keys_of_the_model_and_no_other(section: str) -> None:
    keys = {field.alias or name for name, field in SECTIONS[section].model_fields.items()}
    assert documented(section).keys() == keys


def test_no_model_of_a_spec_is_left_out() -> None:
    def nested(model: type[BaseModel]) -> set[type[BaseModel]]:
        found = {model}
        for field in model.model_fields.values():
            for part in [field.annotation, *getattr(field.annotation, "__args__", ())]:
                if isinstance(part, type) and issubclass(part, BaseModel):
                    found |= nested(part)
        return found

    assert nested(Spec) == {*SECTIONS.values(), Rows}
    assert all(f"`{key}`" in documented("expect")["rows"] for key in Rows.model_fields)


def test_each_type_is_named() -> None:
    takes = documented("field")["type"]
    for name in KNOWN:
        bits = re.fullmatch(r"u?int(16|32)", name)
        items = re.findall(r"array\((.+)\)", name)
        for text in [f"array({item})" for item in items[0].split("|")] if items else [name]:
            assert bits or f"`{text}`" in takes


def test_the_example_is_a_pipeline_beside_ours() -> None:
    (example,) = re.findall(r"```yaml\n(.+?)```", PAGE, re.DOTALL)
    spec = parse(example, "docs/add-a-pipeline.md")
    others = load_all(ROOT / "pipelines")
    assert spec.name not in others
    assert spec.topic.name not in {other.topic.name for other in others.values()}


def test_each_code_of_the_extraction_is_explained() -> None:
    page = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `(\w+)` \| ", page, re.MULTILINE))
    assert set(codes.ALL) <= explained
