from pathlib import Path

import pytest

from tidewatch.errors import SettingsError
from tidewatch.settings import load_settings


def test_sections_come_from_the_environment() -> None:
    settings = load_settings({"TIDEWATCH_KAFKA__BOOTSTRAP": "a:1,b:2", "TIDEWATCH_GATEWAY__PORT": "81", "HOME": "/"})
    assert settings.kafka.bootstrap == "a:1,b:2"
    assert settings.gateway.port == 81


def test_an_unknown_variable_is_refused_with_its_near_miss() -> None:
    with pytest.raises(
        SettingsError, match=r"TIDEWATCH_KAFKA__BOOTSTRP is no setting.*did you mean TIDEWATCH_KAFKA__BOOTSTRAP"
    ):
        load_settings({"TIDEWATCH_KAFKA__BOOTSTRP": "a:1"})


def test_a_bad_value_names_its_variable_and_not_the_value() -> None:
    with pytest.raises(SettingsError, match="TIDEWATCH_GATEWAY__PORT") as caught:
        load_settings({"TIDEWATCH_GATEWAY__PORT": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    settings = load_settings({"TIDEWATCH_CLICKHOUSE__PASSWORD_FILE": str(secret)})
    assert settings.clickhouse.password.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings)


def test_an_unreadable_secret_file_fails_loudly(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="TIDEWATCH_STORE__URL_FILE names a file that cannot be read"):
        load_settings({"TIDEWATCH_STORE__URL_FILE": str(tmp_path / "missing")})


def test_a_secret_and_its_file_together_are_refused(tmp_path: Path) -> None:
    both = {"TIDEWATCH_CLICKHOUSE__PASSWORD": "a", "TIDEWATCH_CLICKHOUSE__PASSWORD_FILE": str(tmp_path)}
    with pytest.raises(SettingsError, match="both set"):
        load_settings(both)


def test_only_secrets_have_a_file_form() -> None:
    with pytest.raises(SettingsError, match="is no setting"):
        load_settings({"TIDEWATCH_KAFKA__BOOTSTRAP_FILE": "/etc/hostname"})
