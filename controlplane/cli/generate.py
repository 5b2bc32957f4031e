"""`tidewatch generate`: docs and schemas that follow from the code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controlplane import generate
from tidewatch.errors import NotBalanced


def main(
    *,
    root: Annotated[Path, typer.Option(help="The root of the project.")] = Path(),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 3 when a file is out of date.")] = False,
) -> None:
    """Write the files that follow from the code: docs/settings.md, docs/metrics.md, pipelines/spec.schema.json."""
    if not check:
        for path in generate.write(root):
            print(f"wrote {path}")
    elif changed := generate.drifted(root):
        raise NotBalanced(
            f"out of date: {', '.join(map(str, changed))}", fix="run `make generate` and commit the result"
        )
