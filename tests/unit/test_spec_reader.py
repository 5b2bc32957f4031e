"""What the reader says about a wrong spec: the file, the line, and the mend."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from tidewatch.errors import SpecError
from tidewatch.spec import json_schema, load, load_all, parse
from tidewatch.spec.model import format_duration, parse_duration

ROOT = Path(__file__).parents[2]
GOOD = """\
name: visits
description: For a test.
owner: tests
source: {kind: http, path: /v1/visits}
topic: {name: raw.visits.v1, partitions: 2}
dead_letters: {topic: dlq.visits.v1}
schema:
  fields:
    - {name: page, type: string, required: true}
    - {name: spent, type: "decimal(10,2)"}
table: {name: raw_visits, order_by: [page]}
"""


def wrong(old: str, new: str) -> SpecError:
    """The error for a spec in which `old` became `new`."""
    assert old in GOOD
    with pytest.raises(SpecError) as caught:
        parse(GOOD.replace(old, new, 1), "pipelines/visits.yaml")
    assert caught.value.exit_code == 2
    assert caught.value.fix
    return caught.value


def test_a_good_spec_is_read_with_its_defaults() -> None:
    spec = parse(GOOD, "x.yaml")
    assert (spec.topic.retention, spec.dead_letters.retention) == (timedelta(days=7), timedelta(days=30))
    assert (spec.source.on_invalid, spec.source.unknown_fields, spec.schema_.version) == ("reject", "keep", 1)
    assert spec.schema_.fields[1].kind.clickhouse == "Decimal(10, 2)"


@pytest.mark.parametrize(
    ("old", "new", "line", "what", "fix"),
    [
        ("owner: tests", "onwer: tests", 3, "onwer: is not a key of a spec", "did you mean 'owner'?"),
        ("partitions: 2", "partitons: 2", 5, "is not a key", "did you mean 'partitions'?"),
        ("required: true}", "requried: true}", 9, "is not a key", "did you mean 'required'?"),
        ("kind: http", "knd: http", 4, "is not a key", "did you mean 'kind'?"),
        ("owner: tests", "owner: tests\nfrobnicate: 1", 4, "is not a key", "remove it; known keys there: name, "),
        ("description: For a test.\n", "", 1, "description", "add `description:`"),
        ("partitions: 2", "partitions: 0", 5, "greater than or equal to 1", "docs/add-a-pipeline.md"),
        ("partitions: 2", "partitions: 2, retention: 7 days", 5, "'7 days' is no duration", "docs/add-a-pipeline.md"),
        ("partitions: 2", "partitions: 2, retention: 604800", 5, "604800 is no duration", "docs/add-a-pipeline.md"),
        ("type: string", "type: strng", 9, "'strng' is no field type; known are string", "docs/add-a-pipeline.md"),
        ("decimal(10,2)", "decimal(39,2)", 10, "precision is 1 to 38", "docs/add-a-pipeline.md"),
        ("name: page", "name: _page", 9, "should match pattern", "docs/add-a-pipeline.md"),
        ("name: spent", "name: page", 7, "field page is declared twice", "docs/add-a-pipeline.md"),
        ("order_by: [page]", "order_by: [pgae]", 1, "names pgae, which is no column", "docs/add-a-pipeline.md"),
        ("order_by: [page]", "order_by: [spent]", 1, "a sorting key holds no NULL", "docs/add-a-pipeline.md"),
        ("partitions: 2", "partitions: 2, key: pag", 1, "topic.key pag is no field", "docs/add-a-pipeline.md"),
        ("topic: dlq.visits.v1", "topic: raw.visits.v1", 1, "a topic of their own", "docs/add-a-pipeline.md"),
        ("partitions: 2", "partitions: 2, retention: 30d", 1, "must outlast topic.retention", "docs/add-a-pipeline.md"),
        (", path: /v1/visits", "", 4, "a source of kind http needs a path", "docs/add-a-pipeline.md"),
        ("required: true", "min: 1", 9, "min and max bound numbers", "docs/add-a-pipeline.md"),
        ('"decimal(10,2)"', "int8, min: 2, max: 1", 10, "min 2 is greater than max 1", "docs/add-a-pipeline.md"),
    ],
)
def test_an_error_names_the_line_and_the_mend(old: str, new: str, line: int, what: str, fix: str) -> None:
    error = wrong(old, new)
    assert error.where == f"pipelines/visits.yaml:{line}"
    assert what in error.what
    assert fix in error.fix


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [("owner: tests", "owner: tests\nowner: b", 4), ("partitions: 2", "partitions: 2, partitions: 3", 5)],
)
def test_a_key_that_stands_twice_is_refused(old: str, new: str, line: int) -> None:
    error = wrong(old, new)
    assert "stands twice" in error.what
    assert error.where.endswith(f":{line}")


def test_broken_yaml_names_its_line() -> None:
    error = wrong("owner: tests", "owner: [tests")
    assert error.where.startswith("pipelines/visits.yaml:")
    assert "not valid YAML" in error.what


@pytest.mark.parametrize("text", ["", "- a", "just text"])
def test_a_spec_is_a_mapping(text: str) -> None:
    with pytest.raises(SpecError, match="a spec is a mapping"):
        parse(text, "x.yaml")


def test_several_problems_are_told_at_once() -> None:
    error = wrong("owner: tests\n", "onwer: tests\nfrob: 1\n")
    assert "onwer" in error.what
    assert "frob" in error.what


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ([], "the name visits is taken by a.yaml"),
        ([("name: visits", "name: views")], "the table raw_visits is taken"),
        ([("name: visits", "name: views"), ("raw_visits", "raw_views")], "the topic raw.visits.v1 is taken"),
        (
            [("name: visits", "name: views"), ("raw_visits", "raw_views"), ("raw.visits", "raw.views")],
            "the topic dlq.visits.v1 is taken",
        ),
        (
            [
                ("name: visits", "name: views"),
                ("raw_visits", "raw_views"),
                ("raw.visits", "dlq.visits"),
                ("topic: dlq.visits", "topic: dlq.views"),
            ],
            "the topic dlq.visits.v1 is taken",
        ),
        (
            [
                ("name: visits", "name: views"),
                ("raw_visits", "raw_views"),
                ("raw.visits", "raw.views"),
                ("dlq.visits", "dlq.views"),
            ],
            "the route /v1/visits is taken",
        ),
    ],
)
def test_two_specs_share_nothing(tmp_path: Path, changes: list[tuple[str, str]], what: str) -> None:
    text = GOOD
    for old, new in changes:
        text = text.replace(old, new)
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load_all(tmp_path)
    assert what in caught.value.what
    assert caught.value.where.endswith("b.yaml")


def test_a_directory_without_specs_and_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no pipeline spec found"):
        load_all(tmp_path)
    with pytest.raises(SpecError, match="cannot be read"):
        load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(SpecError, match="cannot be read"):
        load(tmp_path / "latin.yaml")


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    with pytest.raises(SpecError) as caught:
        load_all(ROOT / "pipelines").require("click")
    assert "did you mean clicks?" in caught.value.fix


@pytest.mark.parametrize("text", ["250ms", "90s", "15m", "2h", "7d", "30d"])
def test_durations_are_written_as_they_are_read(text: str) -> None:
    assert format_duration(parse_duration(text)) == text


@pytest.mark.parametrize("value", ["", "7", "d", "-1d", "1w", "1d2h", 7, None, True])
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(value)


def test_the_editors_schema_is_that_of_the_model() -> None:
    committed = (ROOT / "pipelines" / "spec.schema.json").read_text(encoding="utf-8")
    assert json.loads(committed) == json_schema(), "run `make generate`"
