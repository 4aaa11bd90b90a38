"""What a flag is, and the command line that a list of flags makes; `parameters.py` holds the flags themselves."""

from __future__ import annotations

import argparse
import difflib
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from utilities.errors import UserError
from utilities.flags import early, of_cv4rs

AUTO = "auto"


@dataclass(frozen=True)
class Flag:
    """One flag. `default` AUTO: it follows from other flags (`utilities.flags.derive`)."""

    name: str
    default: Any
    help: str
    type: Any = str
    choices: Sequence[Any] | None = None
    nargs: str | None = None
    aliases: tuple[str, ...] = ()
    low: float | None = None  # the least and the greatest value that it may have
    high: float | None = None


def check_bounds(flags: Iterable[Flag], settings: Mapping[str, Any]) -> None:
    """Raise UserError for the first number that is not finite or beyond its bounds."""
    for flag in flags:
        value = settings.get(flag.name)
        if value is None:
            continue
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"--{flag.name} {spelled(value)} must be a finite number")
            if flag.low is not None and not number >= flag.low:
                raise UserError(f"--{flag.name} {spelled(value)} must be at least {flag.low:g}")
            if flag.high is not None and not number <= flag.high:
                raise UserError(f"--{flag.name} {spelled(value)} must be at most {flag.high:g}")


def yes_no(text: str) -> bool:
    """`yes` or `no` of a command line."""
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither yes nor no")
    return text == "yes"


def switch(name: str, help: str, **options: Any) -> Flag:
    """A flag without value, off by default."""
    return Flag(name, False, help, type=bool, **options)


class Parser(argparse.ArgumentParser):
    """argparse that takes `-` for `_`, no abbreviations, and answers a mistake in one message with exit code 2.

    answers  flags of another project -> what to give instead
    """

    answers: Mapping[str, str] = {}
    tokens: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        print(
            f"error: {message}{self._meant(message)}\n(python {self.prog} --help all lists every flag)", file=sys.stderr
        )
        sys.exit(2)

    def given(self, argv: Sequence[str] | None) -> dict[str, Any]:
        """The flags that were given, of `argv` or of the command line."""
        self.tokens = underscored(sys.argv[1:] if argv is None else argv)
        of_cv4rs.refuse(self.tokens, self.answers)
        return vars(self.parse_args(self.tokens))

    def _meant(self, message: str) -> str:
        """What a mistake that argparse names was probably to be; "" where nothing comes near."""
        if re.search(r"invalid (int|float) value: '[^']*,", message):
            return "; several values are given with blanks between"
        known = self._option_string_actions
        unknown = message.removeprefix("unrecognized arguments: ").split() if message.startswith("unrecognized") else []
        for word in unknown:
            before = self.tokens[max(0, self.tokens.index(word) - 1)] if word in self.tokens else ""
            if not word.startswith("--") and before in known and known[before].nargs == 0:
                return f"; {before} takes no value, it is on where it stands"
        shown = [name for name, action in known.items() if action.help != argparse.SUPPRESS]
        near = [
            match for word in unknown for match in difflib.get_close_matches(word.partition("=")[0], shown, 2, 0.75)
        ]
        return f"; near: {', '.join(dict.fromkeys(near))}" if near else ""


class Help(argparse.Action):
    """`--help`: the flags that people set, where there is a choice of them; `--help all`: every one."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> NoReturn:
        short = "" if given[1] == "all" else early.short_help(parser.prog.removesuffix(".py"))
        print(short or parser.format_help().rstrip())
        parser.exit()


def underscored(argv: Iterable[str]) -> list[str]:
    """`--nb-epochs=3` -> `--nb_epochs=3`; values stay as they are."""
    tokens = []
    for token in argv:
        name, equals, value = token.partition("=")
        tokens.append(("--" + name[2:].replace("-", "_") if name.startswith("--") else name) + equals + value)
    return tokens


def build_parser(
    prog: str,
    usage: Sequence[str],
    groups: Mapping[str, Sequence[Flag]],
    description: str,
    answers: Mapping[str, str] = {},
) -> Parser:
    """A parser that reports only the flags that were given; usage: the ways to call `prog`, without its name; answers:
    see `Parser`."""
    parser = Parser(
        prog=prog,
        # argparse's own would name each of a hundred flags
        usage="\n       ".join(f"python %(prog)s {way}" for way in usage),
        description=description,
        allow_abbrev=False,
        add_help=False,
        argument_default=argparse.SUPPRESS,
    )
    about = "this; all: every flag"
    parser.add_argument("-h", "--help", action=Help, nargs="?", choices=("all",), metavar="all", help=about)
    parser.answers = answers
    for title, flags in groups.items():
        section = parser.add_argument_group(title)
        for flag in flags:
            text = flag.help.replace("%", "%%")
            if flag.type is bool:
                _add(section, flag, text, action="store_true")
                continue
            kind = getattr(flag.type, "__name__", "")
            options: dict[str, Any] = {"type": flag.type, "metavar": early.metavar(flag.name, kind)}
            if flag.type is not str:  # AUTO may be given by name as well
                options["type"] = _or_auto(flag.type) if flag.default == AUTO else flag.type
            if flag.choices is not None:
                options["choices"], options["metavar"] = flag.choices, None
            if flag.nargs is not None:
                options["nargs"] = int(flag.nargs) if flag.nargs.isdigit() else flag.nargs
            _add(section, flag, f"{text} [{shown(flag.default)}]", **options)
    return parser


def _add(section: Any, flag: Flag, text: str, **options: Any) -> None:
    """The flag, and its other names, which no help shows."""
    section.add_argument(f"--{flag.name}", dest=flag.name, help=text, **options)
    for alias in flag.aliases:
        section.add_argument(f"--{alias}", dest=flag.name, help=argparse.SUPPRESS, **options)


def _or_auto(kind: Any) -> Any:
    def convert(text: str) -> Any:
        return AUTO if text == AUTO else kind(text)

    convert.__name__ = kind.__name__
    return convert


def shown(default: Any) -> str:
    """A default as help and docs show it."""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return " ".join(map(str, default)) if isinstance(default, list) else "-" if default is None else str(default)


def spelled(value: Any) -> str:
    """As it is typed on a command line."""
    return f"{value:g}" if isinstance(value, float) else shown(value)
