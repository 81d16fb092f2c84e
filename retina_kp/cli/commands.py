"""How the commands of ``retina-kp`` are listed, and how they tell what was wrong."""

from __future__ import annotations

import sys

import click

SECTIONS = {
    "See it work": ("demo",),
    "Register": ("register", "register-series", "apply"),
    "Your data": ("inspect", "evaluate"),
    "Train": ("finetune", "calibrate", "train"),
    "Notebooks and measurements": ("report", "lab", "benchmark"),
}
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class BadInput(click.ClickException):
    exit_code = 2


class Command(click.Command):
    """A command that tells in one line what was wrong with its input."""

    def invoke(self, context: click.Context):
        try:
            return super().invoke(context)
        except (OSError, ValueError) as error:
            raise BadInput(str(error)) from None
        except RuntimeError as error:
            if type(error).__name__ != "NotebookError":  # by name: its module is slow to import
                raise
            raise BadInput(str(error)) from None


class Commands(click.Group):
    command_class = Command

    def main(self, *args, **kwargs):
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a C locale has no °, and a name may have anything
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **kwargs)

    def list_commands(self, context: click.Context) -> list[str]:
        return [name for names in SECTIONS.values() for name in names]

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(70)) for name in names])
