"""Each setting has an option on the command line, and the help names its variable."""

import click
import pytest
from click.testing import CliRunner
from pydantic_settings import BaseSettings

from skillq.runtime.settings import Settings
from skillq_cli.command import load
from skillq_cli.embedded_commands import RunSettings
from skillq_cli.options import settings_options
from skillq_manager.settings import ManagerSettings
from skillq_worker.settings import WorkerSettings


@pytest.mark.parametrize(
    ("name", "settings"),
    [("run", RunSettings), ("manager", ManagerSettings), ("worker", WorkerSettings)],
)
def test_every_setting_of_a_command_is_an_option_and_in_its_help(
    name: str, settings: type[BaseSettings]
) -> None:
    text = CliRunner().invoke(load(name), ["--help"]).output
    for field in settings.model_fields:
        if field == "handlers":
            continue  # an argument
        assert f"--{field.replace('_', '-')}" in text
        assert f"SKILLQ_{field.upper()}" in text.replace("\n", " ").replace("  ", "")


def test_submit_has_the_settings_that_it_uses() -> None:
    text = CliRunner().invoke(load("submit"), ["--help"]).output
    assert "--broker-url" in text
    assert "--log-level" not in text


def parse(*arguments: str) -> dict[str, object]:
    received: dict[str, object] = {}

    @click.command()
    @settings_options(WorkerSettings, "handlers", *Settings.model_fields)
    def command(**options: object) -> None:
        received.update(options)

    result = CliRunner().invoke(command, list(arguments))
    assert result.exit_code == 0, result.output
    return received


def test_an_option_that_is_not_given_is_left_to_the_environment() -> None:
    options = parse()
    assert options.pop("specialty") == ()
    assert set(options.values()) == {None}


def test_values_of_options_are_passed_on_as_text() -> None:
    options = parse("--skill", "eleven", "--specialty", "ocr", "--specialty", "gpu")
    assert options["skill"] == "eleven"
    assert options["specialty"] == ("ocr", "gpu")


def test_a_flag_that_is_not_given_is_none_and_not_false(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[object] = []

    @click.command()
    @settings_options(ManagerSettings)
    def command(stop_when_done: bool | None, **_: object) -> None:
        received.append(stop_when_done)

    CliRunner().invoke(command, [])
    CliRunner().invoke(command, ["--stop-when-done"])
    assert received == [None, True]
