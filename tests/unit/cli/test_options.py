"""Each setting is an option of the command line, with its variable in the help."""

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


def given(*arguments: str) -> dict[str, object]:
    seen: dict[str, object] = {}

    @click.command()
    @settings_options(WorkerSettings, "handlers", *Settings.model_fields)
    def command(**options: object) -> None:
        seen.update(options)

    result = CliRunner().invoke(command, list(arguments))
    assert result.exit_code == 0, result.output
    return seen


def test_what_is_not_given_is_left_to_the_environment() -> None:
    options = given()
    assert options.pop("specialty") == ()
    assert set(options.values()) == {None}


def test_values_are_handed_on_as_they_were_written() -> None:
    options = given("--skill", "eleven", "--specialty", "ocr", "--specialty", "gpu")
    assert options["skill"] == "eleven"
    assert options["specialty"] == ("ocr", "gpu")


def test_a_flag_that_is_not_given_does_not_say_no(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    @click.command()
    @settings_options(ManagerSettings)
    def command(stop_when_done: bool | None, **_: object) -> None:
        seen.append(stop_when_done)

    CliRunner().invoke(command, [])
    CliRunner().invoke(command, ["--stop-when-done"])
    assert seen == [None, True]
