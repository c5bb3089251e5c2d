"""`tributary model get`."""

from typing import Annotated

import typer

from deploy.formatting import console

model_app = typer.Typer(no_args_is_help=True, help="Base models.")


@model_app.command("get")
def model_get(name: Annotated[str, typer.Argument(help="A model that Tributary knows how to fetch.")]) -> None:
    """Fetch a base model into the cache, checked by sha256."""
    from deploy.models.registry import get_model

    get_model(name, console)
