import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from tidewatch.clickhouse import ClickHouse
from tidewatch.clock import ManualClock, SystemClock
from tidewatch.errors import SettingsError, StoreError, StoreUnavailable
from tidewatch.settings import ClickHouse as ClickHouseSettings
from tidewatch.settings import Store
from tidewatch.sql import open_store, reading, translated


def test_sqlite_is_durable_and_writes_are_serialised(tmp_path: Path) -> None:
    engine = open_store(Store(url=SecretStr(f"sqlite:///{tmp_path}/deep/store.db")))
    with engine.begin() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO t VALUES (1)"))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM t")).scalar() == 1
    engine.dispose()


@pytest.mark.parametrize("url", ["mysql://u:hunter2@h/d", "nonsense"])
def test_another_kind_of_store_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_store(Store(url=SecretStr(url)))
    assert "hunter2" not in str(caught.value)


def test_errors_are_translated_without_the_parameters(tmp_path: Path) -> None:
    engine = open_store(Store(url=SecretStr(f"sqlite:///{tmp_path}/s.db")))
    with pytest.raises((StoreError, StoreUnavailable)) as caught, translated("testing"), engine.begin() as connection:
        connection.execute(text("INSERT INTO missing VALUES (:x)"), {"x": "private"})
    assert "private" not in str(caught.value)
    engine.dispose()


def test_a_store_that_must_exist_is_not_made(tmp_path: Path) -> None:
    store = Store(url=SecretStr(f"sqlite:///{tmp_path}/deep/store.db"))
    with pytest.raises(StoreUnavailable) as caught:
        open_store(store, existing=True)
    assert "store.db" in caught.value.what
    assert caught.value.fix
    assert list(tmp_path.iterdir()) == []
    made = open_store(store)
    with made.begin() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
    made.dispose()
    there = open_store(store, existing=True)
    with reading(there) as connection:
        assert connection.execute(text("SELECT count(*) FROM t")).scalar() == 0
    there.dispose()


@pytest.mark.parametrize(
    "url", ["ftp://u:hunter2@h:8123", "u:hunter2@h", "http://u:hunter2/x@h:8123", "http://u:hunter2@[h"]
)
def test_an_address_of_clickhouse_that_is_none_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        ClickHouse(ClickHouseSettings(url=url))
    shown = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in shown


def test_a_manual_clock_moves_only_when_moved() -> None:
    clock = ManualClock()
    start = clock.now()
    clock.advance(5)
    clock.sleep(1.5)
    assert (clock.now() - start).total_seconds() == clock.monotonic() == 6.5
    assert SystemClock().now().tzinfo is not None
