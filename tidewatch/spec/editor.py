"""The JSON Schema that editors use to complete and check a spec while it is written."""

from __future__ import annotations

from typing import Any

from tidewatch.spec.model import Spec


def json_schema() -> dict[str, Any]:
    """JSON Schema 2020-12; committed as `pipelines/spec.schema.json` and held to the code by a test."""
    schema = Spec.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Tidewatch pipeline spec"} | schema
