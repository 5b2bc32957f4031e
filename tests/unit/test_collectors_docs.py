"""A collector has a page and a test; the example in the docs works as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors.base import Context, Sample, Unmeasured, builders
from tidewatch.settings import Settings, Store
from tidewatch.spec import Specs

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", builders())
def test_it_has_a_page_that_is_linked_and_a_test(name: str) -> None:
    assert (ROOT / "docs" / "collectors" / f"{name}.md").is_file(), f"write docs/collectors/{name}.md"
    assert f"(collectors/{name}.md)" in (ROOT / "docs" / "collectors.md").read_text()
    tests = [path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    assert any(f"collectors.{name} import" in text for text in tests), f"no test uses collectors.{name}"


@pytest.mark.parametrize("name", builders())
def test_its_name_is_its_modules(name: str) -> None:
    context = Context(Settings(), Specs({}))
    assert builders()[name](context).name == name
    context.close()


def test_the_example_measures_and_says_what_it_could_not(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "collectors.md").read_text()
    module: dict[str, object] = {}
    exec(text.split("```python\n")[1].split("```")[0], module)  # noqa: S102 — our own page
    make = module["COLLECTOR"]
    assert callable(make)
    there = Settings(store=Store.model_validate({"url": f"sqlite:///{tmp_path}/store.db"}))
    (sample,) = make(Context(there, Specs({}))).collect()
    assert isinstance(sample, Sample)
    assert sample.value > 0
    gone = Settings(store=Store.model_validate({"url": f"sqlite:///{tmp_path}/none/store.db"}))
    (blind,) = make(Context(gone, Specs({}))).collect()
    assert isinstance(blind, Unmeasured)
    assert blind.why == "No such file or directory"
