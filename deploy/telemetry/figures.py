"""The registry of figures: each figure that a run reports is named, explained and given its unit here, once.

Prometheus metrics, the dashboard's curves, the buffer table, the live panel and the tables of the documentation take
name, title, unit and meaning from this file. To add a figure, add one entry and the code that computes it:

actor.NAME.X     `actor_values` in snapshot.py, from RolloutActor.status
reward.NAME.X    `worker_values` in snapshot.py, from RewardWorker.status
buffer.X         BufferStats, or `buffer_totals` in snapshot.py
learner.X        the learner's row; curves that follow from it, `learner_values` in deploy/dashboard/data/series.py
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

_GROUPS = {"actor": "actors", "reward": "rewards", "prompt": "posterior"}
_PER_PROCESS = ("actor", "reward", "learner")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. A part of the name in capitals stands for any name, and for the braces in the title."""

    name: str
    title: str
    unit: str
    """Empty for a pure number."""
    meaning: str
    """One sentence."""
    kind: Literal["gauge", "counter", "curve"] = "gauge"
    """gauge: a level at one time; counter: a total that grows; curve: derived from these by the dashboard."""
    axis: Literal["linear", "log"] = "linear"
    """log: the values span orders of magnitude."""
    aim: float | None = None
    """Value where the policy is the posterior, of a figure that no other policy has, such as one that draws half of it
    right and never visits the rest."""
    metric: str = ""
    """Name in Prometheus, without what Ray and Prometheus add; empty where it is not exported."""
    curve: bool = True
    """True if the dashboard keeps it over time."""
    rate_of: str = ""
    """Field of the total whose growth per second this is."""
    page: str = ""
    """Page of the dashboard, where it does not follow from the name."""
    sampled: bool = False
    """It describes fresh on-policy strings: its curve stands at the step whose policy sampled them."""
    sparse: bool = False
    """Read only every learner.advanced.diagnose_every steps: a step without it is not a gap."""

    @property
    def room(self) -> str:
        """First part of the name: actor, reward, buffer, learner, prompt, system or run."""
        return self.name.partition(".")[0]

    @property
    def field(self) -> str:
        """Name of the value in its source."""
        return ".".join(part for part in self.name.split(".")[1:] if not part.isupper())

    @property
    def group(self) -> str:
        """Group of the dashboard's catalogue."""
        return self.page or _GROUPS.get(self.room, self.room)

    @property
    def log(self) -> bool:
        """True if a log axis helps."""
        return self.axis == "log"

    def as_dict(self) -> dict[str, Any]:
        """The figure in plain values, as `/api/catalog` gives it."""
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "meaning": self.meaning,
            "kind": self.kind,
            "group": self.group,
            "log": self.log,
            "aim": self.aim,
            "sparse": self.sparse,
        }

    @property
    def label(self) -> str:
        """Title without the name it is filled in with."""
        return self.title.replace("{}", "").strip(" :,")

    @property
    def tags(self) -> tuple[str, ...]:
        """Labels in Prometheus, besides Ray's own."""
        own = tuple(part.lower() for part in self.name.split(".") if part in ("REASON", "ROLE"))
        return ("run", *own, *(("process",) if self.room in _PER_PROCESS else ()))

    @property
    def series(self) -> str:
        """Name of the metric in a query."""
        return f"ray_{self.metric}_total" if self.metric_kind == "counter" else f"ray_{self.metric}"

    @property
    def metric_kind(self) -> Literal["counter", "gauge"]:
        """Redis counts the buffer's totals for all processes, and `clear` resets them: Prometheus gets gauges."""
        return "counter" if self.kind == "counter" and self.room != "buffer" else "gauge"


F = Figure
# fmt: off
_LEARNER = (
    F("learner.loss", "loss", "nats²",
      "Loss of the newest step; in nats for the objective sft.", axis="log", metric="tributary_learner_loss"),
    F("learner.grad_norm", "gradient norm", "",
      "L2 norm of the gradient before clipping.", axis="log", metric="tributary_learner_grad_norm"),
    F("learner.learning_rate", "learning rate", "",
      "Learning rate of the newest step.", axis="log", metric="tributary_learner_learning_rate"),
    F("learner.reward_temperature", "reward temperature", "",
      "T of the target R^(1/T); at 1 the target is the posterior itself.",
      metric="tributary_learner_reward_temperature"),
    F("learner.steps", "steps", "steps",
      "Optimiser steps since the process began, skipped ones included.",
      "counter", curve=False, metric="tributary_learner_steps"),
    F("learner.skipped_steps", "skipped steps", "steps",
      "Steps whose loss or gradient was not finite; their batches went to quarantine.",
      "counter", metric="tributary_learner_skipped_steps"),
    F("learner.waited_s", "time waited for data", "s",
      "Time spent waiting for data since the process began.",
      "counter", curve=False, metric="tributary_learner_wait_seconds"),
    F("learner.step_s", "time of a step", "s",
      "Duration of the newest step: waiting, computing and publishing.",
      axis="log", metric="tributary_learner_step_seconds"),
    F("learner.wait_s", "waiting for data", "s",
      "Part of a step spent waiting for data.", axis="log"),
    F("learner.work_s", "computing", "s",
      "Part of a step spent computing.", "curve", axis="log"),
    F("learner.publish_s", "publishing the adapter", "s",
      "Part of a step spent publishing the adapter.", axis="log"),
    F("learner.utilisation", "utilisation", "share",
      "Share of a step in which the learner does not wait for data.", "curve"),
    F("learner.nodes_per_s", "positions computed", "tokens/s",
      "Positions of the prefix tree that the learner computes per second.", "curve"),
    F("learner.tree_nodes", "positions of a batch", "tokens",
      "Positions of a batch after shared prefixes are merged."),
    F("learner.version", "newest version", "versions",
      "Number of the newest published adapter.", metric="tributary_learner_published_version"),
    F("learner.staleness_mean", "staleness", "versions",
      "Mean staleness of the fresh rows of a batch; no value where a batch has none.",
      metric="tributary_learner_staleness_versions"),
    F("learner.staleness_max", "largest staleness", "versions",
      "Largest staleness of the fresh rows of a batch."),
    F("learner.fresh", "fresh rows", "rows",
      "Rows of a batch that are drawn for the first time."),
    F("learner.on_policy", "on-policy rows", "rows",
      "Fresh rows of a batch that the untempered policy sampled."),
    F("learner.var_u", "Var(u)", "nats²",
      "Variance over prefixes of u, each prefix's estimate of log Z, on fresh on-policy rows.",
      axis="log", page="posterior", metric="tributary_learner_var_u"),
    F("learner.log_z", "log Z", "nats",
      "Mean estimate of log Z at the first prefix.", page="posterior", metric="tributary_learner_log_z_nats"),
    F("learner.log_z_lower", "log Z, lower estimate", "nats",
      "Mean of log R / T − log q over a prompt's fresh on-policy rows. Adapters some versions old sampled them, so log "
      "Z may be on either side.", page="posterior"),
    F("learner.log_z_mean", "log Z, mean estimate", "nats",
      "Log-mean-exp of the weights R^(1/T) / q of a prompt's fresh on-policy rows, often 2 to 8: usually too low. "
      "Equals the lower estimate at the posterior.", page="posterior"),
    F("learner.kl_estimate", "KL(q ‖ p), estimate", "nats",
      "Gap between the mean and the lower estimate of log Z; of few rows a prompt usually too small.",
      "curve", axis="log", page="posterior"),
    F("learner.ess", "effective sample size", "share",
      "Effective sample size of the weights R^(1/T) / q, as a share of a prompt's K fresh on-policy rows. It is never "
      "below 1/K, and with K often 2 to 8 usually too large.", page="posterior"),
    F("learner.slope", "slope of log q against log R", "",
      "Slope of the least-squares line of log q against log R / T.", page="posterior"),
    F("learner.correlation", "correlation of log q and log R", "",
      "Correlation of log q and log R / T.", page="posterior"),
    F("learner.missing_mass", "known mass left out", "share",
      "Share of the mass of all strings seen that the fresh draws' estimate of log Z has no room for.",
      aim=0.0, page="posterior", metric="tributary_learner_missing_mass_share"),
    F("learner.total_variation", "total variation, exact", "",
      "Exact total variation distance between q and p; only where the task lists its strings.",
      axis="log", aim=0.0, page="posterior", sparse=True),
    F("learner.kl", "KL(p ‖ q), exact", "nats",
      "Exact KL divergence; only where the task lists its strings.",
      axis="log", aim=0.0, page="posterior", sparse=True),
    F("prompt.ID.log_z_lower", "log Z of {}, lower estimate", "nats",
      "Lower estimate of one prompt's log Z, for at most 16 prompts."),
    F("prompt.ID.log_z_mean", "log Z of {}, mean estimate", "nats",
      "Mean estimate of one prompt's log Z, for at most 16 prompts."),
    F("learner.log_reward", "log R, mean", "nats",
      "Mean log R of the fresh on-policy rows of a batch.",
      page="rewards", sampled=True, metric="tributary_learner_log_reward_nats"),
    *(
        F(f"learner.log_reward_q{n:02}", f"log R, {n} % quantile", "nats",
          f"The {n} % quantile of log R over fresh on-policy rows.",
          page="rewards", sampled=True)
        for n in (5, 25, 50, 75, 95)
    ),
    F("learner.diversity", "diversity", "share",
      "Share of different strings among the fresh on-policy rows of a step.",
      page="rewards", sampled=True),
    F("learner.terms.NAME", "term {}", "nats",
      "Mean of one reward term, unweighted; a term whose name begins with _ counts for nothing.",
      page="rewards", sampled=True),
    F("learner.labels.NAME", "{}", "",
      "Mean of one label that the task gives its strings.", page="rewards", sampled=True),
    F("learner.behaviours.NAME", "rows drawn {}", "share",
      "Share of the fresh rows that one behaviour sampled.", page="actors"),
)
_BUFFER = (
    F("buffer.size", "trajectories", "trajectories",
      "Trajectories in the buffer.", metric="tributary_buffer_trajectories"),
    F("buffer.capacity", "capacity", "trajectories",
      "Trajectories that the buffer can hold.", curve=False, metric="tributary_buffer_capacity"),
    F("buffer.fill", "fill", "share",
      "Share of the capacity in use."),
    F("buffer.prompts", "prompts", "prompts",
      "Prompts that have a trajectory in the buffer."),
    F("buffer.fresh_waiting", "fresh, waiting", "trajectories",
      "Arrivals that no draw has taken as fresh yet.", metric="tributary_buffer_fresh_waiting"),
    F("buffer.arrivals", "arrivals", "trajectories",
      "Trajectories let in, repeats included.", "counter", curve=False),
    F("buffer.arrival_rate", "arrivals per second", "1/s",
      "Trajectories let in per second, repeats included.", "curve", axis="log", rate_of="arrivals"),
    F("buffer.inserted", "new", "trajectories",
      "Arrivals that were new.", "counter", curve=False, metric="tributary_buffer_inserted"),
    F("buffer.insert_rate", "new per second", "1/s",
      "New trajectories per second.", "curve", axis="log", rate_of="inserted"),
    F("buffer.duplicates", "duplicates", "trajectories",
      "Arrivals that were in the buffer already.", "counter", curve=False, metric="tributary_buffer_duplicates"),
    F("buffer.duplicate_rate", "duplicates per second", "1/s",
      "Arrivals per second that were in the buffer already.", "curve", axis="log", rate_of="duplicates"),
    F("buffer.near_duplicates", "near duplicates replaced", "trajectories",
      "Near duplicates of lower reward, evicted for a new one.", "counter", curve=False),
    F("buffer.unique_ratio", "new among the arrivals", "share",
      "Share of the arrivals that were new."),
    F("buffer.refused.REASON", "refused: {}", "trajectories",
      "Trajectories that were not let in, by reason.", "counter", metric="tributary_buffer_refused"),
    F("buffer.evicted", "evicted", "trajectories",
      "Trajectories evicted to make room.", "counter", curve=False, metric="tributary_buffer_evicted"),
    F("buffer.evict_rate", "evicted per second", "1/s",
      "Trajectories evicted per second to make room.", "curve", axis="log", rate_of="evicted"),
    F("buffer.expired", "expired", "trajectories",
      "Trajectories removed at a draw because they were too many versions old.",
      "counter", curve=False, metric="tributary_buffer_stale"),
    F("buffer.expired_rate", "expired per second", "1/s",
      "Trajectories removed per second because they were too many versions old.",
      "curve", axis="log", rate_of="expired"),
    F("buffer.max_draws_reached", "last draw reached", "trajectories",
      "Trajectories removed with their last allowed draw.", "counter", curve=False),
    F("buffer.drawn", "draws", "rows",
      "Rows drawn.", "counter", curve=False, metric="tributary_buffer_drawn"),
    F("buffer.sample_rate", "draws per second", "1/s",
      "Rows drawn per second.", "curve", axis="log", rate_of="drawn"),
    F("buffer.waived", "owed draws waived", "rows",
      "Draws owed by samples_per_insert that were waived because the trajectories had left.", "counter", curve=False),
    F("buffer.draws_per_insert", "draws per arrival", "",
      "Draws per arrival since the run began, which buffer.samples_per_insert governs.",
      metric="tributary_buffer_draws_per_insert"),
    F("buffer.updated", "priorities set", "priorities",
      "Priorities set.", "counter", curve=False),
    F("buffer.update_rate", "priorities set per second", "1/s",
      "Priorities set per second.", "curve", axis="log", rate_of="updated"),
    F("buffer.update_misses", "priorities set too late", "priorities",
      "Priorities for trajectories that had left.", "counter", curve=False),
    F("buffer.priority_ess", "effective size of draws", "trajectories",
      "Effective number of trajectories that draws by weight spread over.",
      axis="log", metric="tributary_buffer_priority_ess"),
    F("buffer.mean_age_s", "mean age", "s",
      "Mean time since the last arrival of what is in the buffer.", metric="tributary_buffer_age_seconds"),
    F("buffer.oldest_age_s", "oldest", "s",
      "Time since the last arrival of the oldest trajectory.", curve=False),
    F("buffer.last_insert_age_s", "last arrival", "s",
      "Time since the last arrival.", curve=False),
    F("buffer.newest_version", "newest version", "versions",
      "Newest adapter version that the buffer has seen; -1 before the first.", curve=False),
    F("buffer.quarantined", "quarantined", "trajectories",
      "Trajectories quarantined as unreadable, unscorable or not finite.",
      "counter", metric="tributary_buffer_quarantined"),
)
_PROCESSES = (
    F("actor.NAME.trajectories", "{}: trajectories", "trajectories",
      "Trajectories handed to reward workers.", "counter", curve=False, metric="tributary_actor_trajectories"),
    F("actor.NAME.trajectories_per_s", "{}: trajectories per second", "1/s",
      "Trajectories handed to reward workers per second.", "curve", rate_of="trajectories"),
    F("actor.NAME.tokens", "{}: tokens", "tokens",
      "Tokens sampled, stops included.", "counter", curve=False, metric="tributary_actor_tokens"),
    F("actor.NAME.tokens_per_s", "{}: tokens per second", "tokens/s",
      "Tokens sampled per second, stops included.", "curve", rate_of="tokens"),
    F("actor.NAME.engine_s", "{}: time in the engine", "s",
      "Time inside the engine's steps.", "counter", curve=False, metric="tributary_actor_engine_seconds"),
    F("actor.NAME.busy", "{}: engine busy", "share",
      "Share of the time inside the engine's steps.", "curve", rate_of="engine_s"),
    F("actor.NAME.version", "{}: version served", "versions",
      "Number of the adapter that new requests get.", metric="tributary_actor_served_version"),
    F("actor.NAME.versions_skipped", "{}: versions skipped", "versions",
      "Versions published between two that the actor served.",
      "counter", curve=False, metric="tributary_actor_versions_skipped"),
    F("actor.NAME.behind", "{}: versions behind", "versions",
      "Versions between the adapter served and the newest.", "curve"),
    F("actor.NAME.waits", "{}: waiting", "",
      "1 while the actor waits for an adapter or for reward workers, else 0.", metric="tributary_actor_waiting"),
    F("actor.NAME.canary_difference", "{}: largest canary difference", "nats",
      "Largest mean difference so far: engine and learner on a canary, or first samples of a version and their scores.",
      axis="log", aim=0.0, metric="tributary_actor_canary_difference_nats"),
    F("actor.NAME.canaries_exceeded", "{}: canaries beyond tolerance", "canaries",
      "Canaries and first samples whose mean difference exceeded the tolerance; three in a row of either end the run.",
      "counter", curve=False, metric="tributary_actor_canaries_exceeded"),
    F("reward.NAME.strings", "{}: strings", "strings",
      "Strings requested, cached ones included.",
      "counter", curve=False, metric="tributary_reward_strings"),
    F("reward.NAME.strings_per_s", "{}: strings per second", "1/s",
      "Strings requested per second, cached ones included.", "curve", rate_of="strings"),
    F("reward.NAME.cached_strings", "{}: strings from the cache", "strings",
      "Strings whose score came from the cache.", "counter", curve=False, metric="tributary_reward_cache_hits"),
    F("reward.NAME.cache_hits", "{}: cache hits", "share",
      "Share of the strings whose score came from the cache."),
    F("reward.NAME.failed", "{}: failed strings", "strings",
      "Strings quarantined because they could not be scored.", "counter", metric="tributary_reward_failed_strings"),
    F("reward.NAME.function_s", "{}: time of a reward function", "s",
      "Mean time of the task's functions for one string.", axis="log", metric="tributary_reward_function_seconds"),
    F("reward.NAME.slowest_s", "{}: slowest reward function", "s",
      "Longest time of the task's functions for one string.", axis="log"),
    F("system.trajectories_per_s", "trajectories per second", "1/s",
      "Trajectories of all actors per second.", "curve"),
    F("system.tokens_per_s", "tokens per second", "tokens/s",
      "Tokens of all actors per second.", "curve"),
    F("run.members.ROLE", "processes", "processes",
      "Processes that can work now.", curve=False, metric="tributary_run_members"),
    F("run.members_wanted.ROLE", "processes requested", "processes",
      "Processes that the run requests.", curve=False, metric="tributary_run_members_wanted"),
    F("run.restarts.ROLE", "restarts", "starts",
      "Processes that died and were started again.", "counter", curve=False, metric="tributary_run_restarts"),
    F("run.waits", "named waits", "sentences",
      "Named waits and troubles at this time.", curve=False, metric="tributary_run_waits"),
)
# fmt: on

FIGURES: Mapping[str, Figure] = {figure.name: figure for figure in (*_LEARNER, *_BUFFER, *_PROCESSES)}
METRICS: Mapping[str, Figure] = {figure.metric: figure for figure in FIGURES.values() if figure.metric}
"""Every name that a run exports to Prometheus, before Ray puts `ray_` in front of it."""
_PATTERNS = [figure for figure in FIGURES.values() if "{}" in figure.title]


@cache
def in_room(room: str) -> tuple[Figure, ...]:
    """The figures whose names begin with `room`, in the order of the registry."""
    return tuple(figure for figure in FIGURES.values() if figure.room == room)


@cache
def rates_in(room: str) -> Mapping[str, str]:
    """Field of a rate -> field of the total that it is a difference of."""
    return {figure.field: figure.rate_of for figure in in_room(room) if figure.rate_of}


def describe(curve: str) -> Figure:
    """The figure that a curve shows, with its title filled in. An unregistered curve is its own title."""
    if curve in FIGURES:
        return FIGURES[curve]
    for figure in _PATTERNS:
        placeholder = next(part for part in figure.name.split(".") if part.isupper())
        begin, end = figure.name.split(placeholder)
        if curve.startswith(begin) and curve.endswith(end) and len(curve) > len(begin) + len(end):
            middle = curve[len(begin) : len(curve) - len(end)]
            return replace(figure, name=curve, title=figure.title.replace("{}", middle))
    room, _, rest = curve.partition(".")
    return Figure(curve, rest or curve, "", "", page="buffer" if room == "buffer" else "learner")
