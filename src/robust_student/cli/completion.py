"""Completion in the shell: a script that shtab writes from the parsers of all commands."""

import argparse
from collections.abc import Mapping

from pydantic import BaseModel

from robust_student.cli.flags import COMPLETION, PROGRAM, parser_of
from robust_student.core.errors import UserError, nearest
from robust_student.core.extras import require


def completion_of(commands: Mapping[str, type[BaseModel]], shell: str) -> str:
    """The script with which a shell completes commands and flags; UserError for a shell that shtab does not know."""
    shtab = require("shtab", "completion", COMPLETION)
    shells = list(shtab.SUPPORTED_SHELLS)
    if shell not in shells:
        raise UserError(f"{COMPLETION}: unknown shell '{shell}'{nearest(shell, shells)}")
    program = argparse.ArgumentParser(PROGRAM)
    places = program.add_subparsers()
    for name, kind in commands.items():
        places.add_parser(name, help=kind.__doc__, parents=[parser_of(name, kind, {})[0]], add_help=False)
    return str(shtab.complete(program, shell))
