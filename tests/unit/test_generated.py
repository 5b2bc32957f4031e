from pathlib import Path

import pytest

from controlplane import generate

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", list(generate.generated()), ids=str)
def test_the_committed_file_follows_from_the_code(path: Path) -> None:
    assert (ROOT / path).read_text() == generate.generated()[path], "run `make generate` and commit the result"


def test_drift_is_seen_and_mended(tmp_path: Path) -> None:
    assert generate.write(tmp_path) == list(generate.generated())
    assert generate.drifted(tmp_path) == []
    settings = tmp_path / "docs" / "settings.md"
    settings.write_text(settings.read_text() + "by hand")
    assert generate.drifted(tmp_path) == [Path("docs/settings.md")]
