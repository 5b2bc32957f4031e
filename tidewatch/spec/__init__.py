"""The pipeline spec: one file states what a pipeline is, and everything else follows from it."""

from tidewatch.spec.editor import json_schema
from tidewatch.spec.model import Aggregate, Field, Spec
from tidewatch.spec.reader import Specs, load, load_all, parse

__all__ = ["Aggregate", "Field", "Spec", "Specs", "json_schema", "load", "load_all", "parse"]
