"""The `tributary` command: registers the commands and prints errors."""

from importlib import metadata
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from buffer.errors import TributaryError
from deploy.cluster.root_cause import root_cause
from deploy.commands import (
    buffer,
    cluster,
    dashboard,
    doctor,
    evaluate,
    export,
    m_step,
    model,
    recipes,
    reproduce,
    sample,
    serve,
    train,
)
from deploy.formatting import Terminal

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command()(train.train)
app.command()(train.validate)
app.command()(recipes.recipes)
app.command()(recipes.init)
app.command()(evaluate.evaluate)
app.command()(sample.sample)
app.command("m-step")(m_step.m_step)
app.command()(export.export)
app.command()(serve.serve)
app.command()(reproduce.reproduce)
app.command()(cluster.submit)
app.command()(cluster.scale)
app.command()(dashboard.dashboard)
app.command()(dashboard.report)
app.command()(doctor.doctor)
app.add_typer(model.model_app, name="model")
app.add_typer(buffer.buffer_app, name="buffer")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tributary {metadata.version('tributary')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Fine-tune language models to sample from posterior distributions."""


def main() -> NoReturn:
    """Entry point of the `tributary` command. A TributaryError ends in one message and exit code 2."""
    try:
        app(standalone_mode=True)
    except Exception as error:  # Ray's exceptions may be a TributaryError too, with a traceback as text
        cause = root_cause(error)
        if cause is None:
            raise
        _fail(cause)
    raise SystemExit(0)


def _fail(error: TributaryError) -> NoReturn:
    terminal = Terminal(stderr=True, highlight=False)
    terminal.print(
        f"[red bold]{type(error).__name__}[/red bold]: {escape(str(error))}",
        soft_wrap=not terminal.is_terminal,  # lines for a person end at spaces, those for a program do not end
    )
    raise SystemExit(2)


if __name__ == "__main__":
    main()
