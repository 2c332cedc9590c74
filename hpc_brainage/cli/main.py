"""The `brainage` command: its verbs, and how an error reaches the user."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from hpc_brainage.cli.ablate import ablate
from hpc_brainage.cli.cancel import cancel
from hpc_brainage.cli.compare import compare
from hpc_brainage.cli.convert import convert
from hpc_brainage.cli.demo import demo
from hpc_brainage.cli.doctor import doctor
from hpc_brainage.cli.evaluate import evaluate
from hpc_brainage.cli.explain import explain
from hpc_brainage.cli.inspect import inspect
from hpc_brainage.cli.jobs import jobs
from hpc_brainage.cli.logs import logs
from hpc_brainage.cli.report import report
from hpc_brainage.cli.resume import resume
from hpc_brainage.cli.score import score
from hpc_brainage.cli.simulate import simulate
from hpc_brainage.cli.train import train
from hpc_brainage.cli.verify import verify
from hpc_brainage.errors import BrainAgeError, ExitCode, unusable

_INTERRUPTED = {
    "convert": "the same command again goes on with the parts that are not done",
    "train": "the same command again goes on where training was saved last",
    "resume": "the same command again goes on where training was saved last",
    "ablate": "the same command again keeps the rows that are done",
    "score": "the same command again goes on with the parts that are not done",
}
"""What a verb that keeps what it has done says of going on; the others keep nothing."""


class _Verbs(TyperGroup):
    """Never ends in a traceback for bad input, a full disk or a folder that cannot be written."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrainAgeError as error:
            raise _ended(f"error: {error}", error.exit_code) from None
        except KeyboardInterrupt:
            message = _INTERRUPTED.get(str(ctx.invoked_subcommand), "the same command again begins anew")
            raise _ended(f"interrupted; {message}", ExitCode.INTERRUPTED) from None
        except OSError as problem:
            lacking = unusable(problem)
            if lacking is None:
                raise
            raise _ended(f"error: {lacking}", lacking.exit_code) from None


def _ended(message: str, code: ExitCode) -> typer.Exit:
    sys.stdout.flush()
    print(message, file=sys.stderr)
    return typer.Exit(int(code))


app = typer.Typer(
    name="brainage",
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Brain age at scale: scans become a store, a store trains a model, a model scores a store.",
    epilog="Exit codes: 0 done · 1 an error of ours · 2 usage · 3 bad input · 4 done, but some scans were"
    " refused · 5 this machine lacks something (SLURM, space, a permission) · 75 training was told to stop,"
    " and has saved · 130 interrupted",
)
for verb in (
    convert, inspect, verify, train, jobs, logs, cancel, resume, evaluate, ablate, explain, score, compare,
    report, simulate, demo, doctor,
):  # fmt: skip
    app.command()(verb)


def _version(asked: bool) -> None:
    if asked:
        from hpc_brainage.provenance import package_version

        typer.echo(f"brainage {package_version()}")
        raise typer.Exit


@app.callback()
def _common(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Say the version."
    ),
) -> None:
    pass


def run() -> None:
    """Entry point of the command."""
    app()


if __name__ == "__main__":
    run()
