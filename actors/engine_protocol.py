"""The interface of an engine: the part that actors, evaluation and the benchmarks rely on.

actors/engine.py implements it with vLLM, actors/simulated.py without a model.
"""

from typing import Protocol

from actors.behaviour import Behaviour
from actors.segments import Sampled
from buffer.types import AdapterFiles, AdapterVersion, IntArray


class SamplingEngine(Protocol):
    """Samples responses to many requests at once, each under the adapter version it started with."""

    @property
    def version(self) -> AdapterVersion | None:
        """The version that new requests use; None before the first."""

    @property
    def can_take_version(self) -> bool:
        """True while there is a free slot for one more adapter version."""

    @property
    def in_flight(self) -> int:
        """Requests that `step` has not returned yet."""

    @property
    def canary_difference_max(self) -> float:
        """Largest mean difference of a canary, or of a version's first samples, nats."""

    @property
    def canaries_exceeded(self) -> int:
        """Canaries and first samples whose mean difference exceeded the tolerance."""

    @property
    def busy_s(self) -> float:
        """Seconds spent computing since the engine started."""

    def add(self, prompt_token_ids: IntArray, behaviour: Behaviour, use_base_model: bool = False) -> str:
        """Queue one response to a prompt [P]; returns its request id."""

    def step(self) -> list[Sampled]:
        """Advance all requests; returns those that finished. AdapterError where samples are not their version's."""

    def serve(self, version: AdapterVersion, files: AdapterFiles) -> float:
        """Use a version for all later requests; returns the canary's mean difference, nats."""

    def set_threads(self, threads: int) -> None:
        """Use this many CPU threads from now on (0: leave unchanged)."""
