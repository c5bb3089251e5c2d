"""The version of an adapter on disk, next to its files. `evaluate` and `sample` check the files against it."""

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from buffer.types import AdapterVersion, Canary


class AdapterVersionFile(BaseModel):
    """The content of adapter/version.json."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    number: int = Field(ge=0)
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    learner_step: int = Field(ge=0)
    canary_prompt_token_ids: list[int]
    canary_token_ids: list[int]
    canary_log_probs: list[float]
    canary_tolerance: float = Field(gt=0)

    @classmethod
    def from_version(cls, version: AdapterVersion) -> "AdapterVersionFile":
        """The file of an adapter version that the learner published."""
        canary = version.canary
        return cls(
            number=version.number,
            digest=version.digest,
            learner_step=version.learner_step,
            canary_prompt_token_ids=canary.prompt_token_ids.tolist(),
            canary_token_ids=canary.token_ids.tolist(),
            canary_log_probs=canary.log_probs.tolist(),
            canary_tolerance=canary.tolerance,
        )

    def version(self) -> AdapterVersion:
        """The adapter version that the file describes."""
        canary = Canary(
            prompt_token_ids=np.array(self.canary_prompt_token_ids, dtype=np.int32),
            token_ids=np.array(self.canary_token_ids, dtype=np.int32),
            log_probs=np.array(self.canary_log_probs, dtype=np.float32),
            tolerance=self.canary_tolerance,
        )
        return AdapterVersion(self.number, self.digest, self.learner_step, canary)
