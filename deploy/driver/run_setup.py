"""The input of one run: the checked recipe, its folder, and the checkpoint it continues from."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console

from deploy.artifacts.run_folder import RunFolder
from deploy.config import RunConfig
from deploy.driver.preflight import Checked
from deploy.driver.train_options import TrainOptions
from deploy.models.judges import find_judges
from rewards.task import Judges

if TYPE_CHECKING:
    from learner.checkpoint import Numbers


@dataclass(frozen=True, slots=True)
class RunSetup:
    """A run to train, and where."""

    checked: Checked
    folder: RunFolder
    console: Console
    options: TrainOptions
    resumed: bool = False
    checkpoint: "Numbers | None" = None
    """The checkpoint that a resumed run continues from; None if the run died before its first one."""
    judges: Judges = field(default_factory=find_judges)

    @property
    def config(self) -> RunConfig:
        """The recipe."""
        return self.checked.config

    @property
    def first_step(self) -> int:
        """Number of steps done in earlier sessions of the run."""
        return self.checkpoint.step if self.checkpoint else 0
