"""`tributary serve`: an OpenAI-compatible server with the adapter of a run."""

import os
from typing import Annotated

import typer

from deploy.commands.evaluate import RunDir, open_run
from deploy.formatting import console


def serve(
    run: RunDir,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Address to listen on. Any address but loopback needs a key in VLLM_API_KEY.",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="PORT", min=1, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Start vLLM's OpenAI-compatible server with the adapter of a run, and with its base model.

    A request names the adapter by the name of the run's folder. Responses stop where the policy stops.
    """
    from deploy.commands.environment import quiet_engine

    quiet_engine()
    from deploy.driver.serve import served_names, server_command, server_environment

    folder, checked = open_run(run)
    command = server_command(checked, folder, host, port)
    adapter, base = served_names(checked, folder)
    console.print(
        f'Starting http://{host}:{port}/v1 with the models "{adapter}" (the adapter) and "{base}" ...', soft_wrap=True
    )
    if checked.spec.allowed_token_ids is not None:
        ids = sorted({*checked.spec.allowed_token_ids, checked.spec.stop_token_id})
        console.print(
            f"The policy chooses among {len(ids):,} tokens only. Each request has to say so: "
            f"allowed_token_ids = {ids if len(ids) <= 64 else 'those of the model card'}",
            soft_wrap=True,
        )
    if checked.spec.forbidden_token_ids:
        bias = {token: -100 for token in sorted(checked.spec.forbidden_token_ids)}
        console.print(f"Each request has to set logit_bias = {bias}.", soft_wrap=True)
    if checked.spec.min_actions:
        console.print(f"Each request has to set min_tokens = {checked.spec.min_actions}.", soft_wrap=True)
    console.file.flush()
    os.execve(command[0], command, server_environment(checked))  # Ctrl-C and SIGTERM reach the server itself
