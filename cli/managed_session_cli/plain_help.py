"""Shows help as kubectl does: plain text, with examples and without boxes or names of Python's types."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, TypeAlias

import typer
from typer.core import TyperCommand, TyperGroup

PROGRAM = "managed-sessions"
"""What examples begin with. Help shows the name by which the program was called instead."""

_INDENT = "  "
_OTHERS = "Other Commands"


class PlainCommand(TyperCommand):
    """A command whose help is plain text."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write description, examples, arguments, options and usage."""
        _write_description(formatter, self.help)
        _write_examples(ctx, formatter, self.epilog)
        _write_parameters(formatter, self.get_params(ctx))
        _write_usage(ctx, formatter, self.collect_usage_pieces(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the arguments, and where the options go: last, but before `--`."""
        arguments = [_argument(each) for each in self.get_params(ctx) if each.param_type_name == "argument"]
        options = ["[OPTIONS]"] if any(_options(self.get_params(ctx))) else []
        after = [each for each in arguments if each.startswith("[-- ")]
        return [each for each in arguments if each not in after] + options + after


class PlainGroup(TyperGroup):
    """A group of commands whose help lists them by topic."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write description, commands, options and usage."""
        _write_description(formatter, self.help)
        for topic, rows in self._topics(ctx).items():
            _write_section(formatter, f"{topic}:", rows)
        _write_parameters(formatter, self.get_params(ctx))
        _write_usage(ctx, formatter, ["COMMAND", "[ARGUMENTS]", "[OPTIONS]"])
        formatter.write(f'\nUse "{ctx.command_path} COMMAND --help" for more about a command.\n')

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base's
        """Return what follows the name of the group."""
        return ["COMMAND", "[ARGUMENTS]", "[OPTIONS]"]

    def _topics(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        topics: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                topic = getattr(command, "rich_help_panel", None) or _OTHERS
                topics.setdefault(topic if isinstance(topic, str) else _OTHERS, []).append(
                    (name, _first_sentence(command.help))
                )
        if list(topics) == [_OTHERS]:
            return {"Commands": topics[_OTHERS]}
        if _OTHERS in topics:
            topics[_OTHERS] = topics.pop(_OTHERS)
        return topics


class PlainTyper(typer.Typer):
    """An application whose commands have plain help, also those that another package adds."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            cls=PlainGroup,
            no_args_is_help=True,
            add_completion=False,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
            **options,
        )

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Register a command, as `typer.Typer.command`."""
        options.setdefault("cls", PlainCommand)
        return super().command(name, **options)


def examples(lines: tuple[str, ...], group: str = "") -> str:
    """Return the epilog with these examples of a command's use."""
    before = f"{PROGRAM} {group} " if group else f"{PROGRAM} "
    return "\n".join(before + each for each in lines)


def _first_sentence(text: str | None) -> str:
    paragraph = inspect.cleandoc(text or "").partition("\n\n")[0].replace("\n", " ")
    return paragraph.partition(". ")[0].rstrip(".")


def _write_description(formatter: Any, text: str | None) -> None:
    for paragraph in inspect.cleandoc(text or "").split("\n\n"):
        formatter.write_text(" ".join(paragraph.split()))
        formatter.write("\n")


def _write_examples(ctx: Any, formatter: Any, epilog: str | None) -> None:
    if epilog:
        called = ctx.find_root().info_name or PROGRAM
        formatter.write("Examples:\n")
        for line in epilog.splitlines():
            formatter.write(f"{_INDENT}{called}{line.removeprefix(PROGRAM)}\n")
        formatter.write("\n")


def _write_parameters(formatter: Any, parameters: list[Any]) -> None:
    arguments = [
        (_argument(each), each.help)
        for each in parameters
        if each.param_type_name == "argument" and each.help
    ]
    _write_section(formatter, "Arguments:", arguments)
    _write_section(formatter, "Options:", [_described(each) for each in _options(parameters)])


def _options(parameters: list[Any]) -> Iterator[Any]:
    return (
        each
        for each in parameters
        if each.param_type_name == "option" and not each.hidden and each.name != "help"
    )


def _write_section(formatter: Any, title: str, rows: list[tuple[str, str]]) -> None:
    if rows:
        formatter.write(f"{title}\n")
        formatter.indent()
        formatter.write_dl(rows, col_max=34)
        formatter.dedent()
        formatter.write("\n")


def _write_usage(ctx: Any, formatter: Any, pieces: list[str]) -> None:
    formatter.write(f"Usage:\n{_INDENT}{' '.join([ctx.command_path, *pieces])}\n")


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name.upper())
    if parameter.nargs != 1 and "..." not in name:
        name += "..."
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _described(option: Any) -> tuple[str, str]:
    """Return an option's names with the kind of its value, and its help with the default."""
    return option_names(option), option_help(option)


def option_names(option: Any) -> str:
    """Return an option's names, the short one first, with the kind of its value."""
    names = sorted((*option.opts, *option.secondary_opts), key=lambda each: each.startswith("--"))
    shown = ", ".join(names)
    return shown if option.is_flag else f"{shown} {value_of(option)}"


def value_of(option: Any) -> str:
    """Return what stands for the value of an option: its choices, if it has some."""
    if isinstance(option.default, Enum) and option.metavar is None:
        return "|".join(str(each.value) for each in type(option.default))
    longest = str(max(option.opts, key=len)).lstrip("-")
    return str(option.metavar or longest.upper())


def option_help(option: Any) -> str:
    """Return an option's help with its default."""
    default = option.default
    hidden = default in (None, False, ()) or callable(default) or option.show_default is False
    if hidden:
        return str(option.help or "")
    shown = option.opts[0] if default is True else getattr(default, "value", default)
    return f"{option.help or ''} (default {shown})"


Commands: TypeAlias = dict[Callable[..., None], tuple[str, tuple[str, ...]]]
"""Commands, each with its topic and with examples of its use."""


def register(app: typer.Typer, commands: Commands) -> None:
    """Add commands to an application."""
    for command, (topic, lines) in commands.items():
        app.command(rich_help_panel=topic, epilog=examples(lines))(command)
