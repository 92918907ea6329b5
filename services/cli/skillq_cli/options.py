"""Make command line options from settings, one option for each field."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from skillq.runtime.settings import PREFIX

Command = TypeVar("Command", bound=Callable[..., Any])


def settings_options(
    settings_class: type[BaseSettings], *excluded: str
) -> Callable[[Command], Command]:
    """Return a decorator that adds an option for each setting that is not excluded.

    The options take any text: `skillq.runtime.settings.load` checks the values.
    """

    def decorate(command: Command) -> Command:
        for name, field in reversed(settings_class.model_fields.items()):
            if name in excluded:
                continue
            default = (
                ""
                if field.default_factory or field.default in {None, ()}
                else f"; default: {field.default}"
            )
            help_text = f"{field.description} [{PREFIX}{name.upper()}{default}]"
            flag = f"--{name.replace('_', '-')}"
            if field.annotation is bool:
                option = click.option(flag, name, is_flag=True, default=None, help=help_text)
            else:
                is_repeatable = name == "specialty"
                option = click.option(
                    flag,
                    name,
                    multiple=is_repeatable,
                    help=help_text,
                    metavar=_metavar(name, field.annotation),
                )
            command = option(command)
        return command

    return decorate


def _metavar(name: str, annotation: object) -> str:
    if annotation in {int, float}:
        return "N"
    return "TOKEN" if annotation == SecretStr | None else name.rpartition("_")[2].upper()
