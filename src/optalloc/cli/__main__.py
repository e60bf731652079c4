"""The command ``optalloc``: finds the verb, imports its module alone, turns errors into exit codes.

Exit status: 0 done, 1 a bug, 2 bad input (also a claim that is not true, a plan that its target
cannot express, or an extra that is not installed), 3 proven infeasible, 4 limit reached without a
plan, 5 a gap remains although ``--require-optimal`` was given.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from typing import NoReturn

# verb -> (module, what it does); only the standard library is imported before the verb is known.
VERBS = {
    "train": ("optalloc.cli.train", "plan training: the best plan, proven"),
    "estimate": ("optalloc.cli.estimate", "predict one training configuration without searching"),
    "calibrate": ("optalloc.cli.calibrate", "fit the cost model to measured training steps"),
    "sweep": ("optalloc.cli.sweep", "plan a grid of devices, sequences, batches and kinds"),
    "explain": ("optalloc.cli.explain", "say where the time of a plan goes and what binds it"),
    "schema": ("optalloc.cli.schema", "print the JSON Schema of a file format"),
    "inspect": ("optalloc.cli.inspect", "show a model, a cluster, or the catalogues"),
    "compare": ("optalloc.cli.compare", "show what differs between two plans"),
    "certify": ("optalloc.cli.certify", "check a plan and its claim with other code"),
    "simulate": ("optalloc.cli.simulate", "replay a training step, or the requests of serving"),
    "export": ("optalloc.cli.export", "write the files that run a plan with another tool"),
    "replan": ("optalloc.cli.replan", "plan again after nodes are lost or added"),
    "run": ("optalloc.cli.run", "run a plan on this machine, measured against estimated"),
    "assign": ("optalloc.cli.assign", "solve an assignment instance"),
    "flow": ("optalloc.cli.flow", "place layers over mixed nodes: most tokens/s, proven"),
    "serve": ("optalloc.cli.serve", "set up the engines that serve a model: the best, proven"),
    "offload": ("optalloc.cli.offload", "place a model over GPUs, CPU memory and disk, proven"),
    "certify-flow": ("optalloc.cli.certify_flow", "check a layer placement with other code"),
    "fleet": ("optalloc.cli.fleet", "rent the cheapest replicas that serve a load, proven"),
    "certify-fleet": ("optalloc.cli.certify_fleet", "check a fleet and its bound with other code"),
    "certify-assignment": (
        "optalloc.cli.certify_assignment",
        "prove the claim of an assignment again, from its proof",
    ),
}


def _overview() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optalloc",
        usage="optalloc [--help] [--version] [--debug] VERB ...",
        description="Find the globally optimal allocation of language-model computation, proven.",
        epilog="optalloc VERB --help explains one verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    verbs = parser.add_argument_group("verbs")
    for verb, (_, text) in VERBS.items():
        verbs.add_argument(f"{verb}", nargs="?", help=text)
    return parser


class _Parser(argparse.ArgumentParser):
    """Raises what is wrong with an argument, where argparse prints its usage and exits."""

    _strange = ""

    def read(self, words: list[str]) -> argparse.Namespace:
        """The arguments; a misspelt option is blamed before what is missing for want of it."""
        known = self._option_string_actions
        given = [word.partition("=")[0] for word in words if word.startswith("--") and word != "--"]
        strange = [word for word in given if not any(name.startswith(word) for name in known)]
        self._strange = strange[0] if strange else ""
        arguments, unknown = self.parse_known_args(words)
        if unknown:
            raise _unknown(unknown[0].partition("=")[0], self)
        return arguments

    def error(self, message: str) -> NoReturn:
        """Say what, where and how to fix, like every other error of bad input."""
        from optalloc.errors import InputError, nearest

        if self._strange and message.startswith("the following arguments are required"):
            raise _unknown(self._strange, self)
        found = re.fullmatch(
            r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message
        )
        if found is None:
            what = message.removeprefix("argument ")
            name, _, needs = what.partition(": ")
            if needs == "expected one argument":
                raise InputError(
                    f"{name} has no value",
                    path=self.prog,
                    fix=f"write it behind; one that begins with '-' as {name.split('/')[-1]}=-1",
                )
            if number := re.fullmatch(r"invalid (int|float) value: (.*)", needs):
                whole = number[1] == "int"
                raise InputError(
                    f"{number[2]} is no {'whole ' if whole else ''}number",
                    path=name,
                    fix=f"write digits alone, such as {4000 if whole else 2.5}",
                )
            raise InputError(what, path=self.prog, fix=f"'{self.prog} --help' says what it takes")
        name, word, listed = found.groups()
        choices = [choice.strip("'") for choice in listed.split(", ")]
        near = nearest(word, choices, count=1)
        fix = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(choices)}"
        raise InputError(f"{word!r} is no value of {name}", path=self.prog, fix=fix)


def _unknown(word: str, parser: argparse.ArgumentParser) -> Exception:
    """The error of a word that the verb does not take."""
    from optalloc.errors import InputError, nearest

    options = [name for name in parser._option_string_actions if name.startswith("--")]
    near = nearest(word, options, count=1) if word.startswith("-") else []
    return InputError(
        f"unknown option {word!r}" if word.startswith("-") else f"{word!r} is one word too many",
        path=parser.prog,
        fix=f"did you mean {near[0]!r}?" if near else f"'{parser.prog} --help' lists what it takes",
    )


def _status(error: Exception) -> int:
    """The exit status of an error: bad input, no plan, or a bug."""
    from optalloc.errors import ExportError, InputError, MissingExtra, NoPlan
    from optalloc.result import Termination

    if isinstance(error, (InputError, ExportError, MissingExtra)):
        return 2
    if isinstance(error, NoPlan):
        found = getattr(error.result, "termination", None)
        return 3 if found is Termination.INFEASIBLE else 4
    return 1


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help"):
        print(_overview().format_help(), end="")
        return 0
    if words[0] == "--version":
        from optalloc import __version__

        print(f"optalloc {__version__}")
        return 0
    from optalloc.errors import InputError, OptallocError, nearest

    verb = words[0]
    try:
        if verb not in VERBS:
            near = nearest(verb, VERBS, count=1)
            raise InputError(
                f"unknown verb {verb!r}",
                path="optalloc",
                fix=f"did you mean {near[0]!r}?" if near else f"verbs are {', '.join(VERBS)}",
            )
        # Our matrix products are small: starting threads for them costs more than they save.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        module = importlib.import_module(VERBS[verb][0])
        parser = _Parser(prog=f"optalloc {verb}", description=VERBS[verb][1])
        module.add_arguments(parser)
        return int(module.run(parser.read(words[1:])))
    except OptallocError as error:
        if debug:
            raise
        print(f"optalloc: {error}", file=sys.stderr)
        return _status(error)
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        print("optalloc: interrupted before there was an answer", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
