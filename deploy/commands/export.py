"""`tributary export`: take the adapter of a run, or a whole model, somewhere else."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.commands.evaluate import RunDir, open_run
from deploy.formatting import console


def export(
    run: RunDir,
    merge: Annotated[
        bool,
        typer.Option("--merge", help="Add the adapter to the base model's weights and write a whole model."),
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="DIR",
            help="New or empty folder. Default: exported, or with --merge merged, in the run's folder.",
        ),
    ] = None,
) -> None:
    """Write a folder that transformers, PEFT and vLLM load: the adapter of a run, or a merged model.

    It holds a model card with the certificate, the tokenizer, and generation settings that stop where the policy stops.
    A merged model is compared with adapter and base model before the folder is there.
    """
    from deploy.commands.environment import quiet_engine

    quiet_engine()
    from deploy.driver.export import export_adapter, export_merged

    folder, checked = open_run(run)
    target = (to or folder.path / ("merged" if merge else "exported")).expanduser()
    if merge:
        check = export_merged(checked, folder, target)
        console.print(
            f"Merged. log q of {check.strings} strings differs by at most {check.to_adapter:.1g} nats from the "
            f"adapter's, and by up to {check.to_base:.3g} from the base model's.",
            soft_wrap=True,
        )
    else:
        export_adapter(checked, folder, target)
    console.print(f"Written: {target}", soft_wrap=True)
