"""`tributary m-step`: fit p(answer | prompt, rationale) on rationales that a run samples."""

from typing import Annotated

import typer

from deploy.commands.evaluate import RunDir, open_run
from deploy.formatting import console


def m_step(
    run: RunDir,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", min=1, help="Rationales sampled per training prompt.")
    ] = 20,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Optimiser steps.")] = 100,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", metavar="RATE", min=0.0, help="Peak learning rate.")
    ] = 1e-4,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Seed of the sampling and of the order of batches.")
    ] = 0,
) -> None:
    """M-step of EM: fit p(answer | prompt, rationale) on rationales sampled from a run.

    It writes an adapter; the next run scores with it through rewards.adapter.
    """
    from deploy.commands.environment import quiet_engine

    quiet_engine()
    from deploy.driver.m_step import fit, write

    folder, checked = open_run(run)
    console.print(
        f"Drawing {samples:,} rationales for each of {len(checked.prompts):,} prompts, then {steps:,} steps ..."
    )
    fitted = fit(checked, folder, samples, steps, learning_rate, seed, console.print)
    written = write(fitted.files, folder.path)
    tenth = max(1, steps // 10)
    first, last = (sum(part) / len(part) for part in (fitted.losses[:tenth], fitted.losses[-tenth:]))
    console.print(
        f"Cross-entropy {first:.3f} -> {last:.3f} nats. Written: {written}\n"
        f"The next E-step: tributary train RECIPE rewards.adapter={written.absolute()} --run ANOTHER_FOLDER",
        soft_wrap=True,
    )
