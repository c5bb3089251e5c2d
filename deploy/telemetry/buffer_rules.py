"""Alert rules on the buffer: what comes in, what is refused, what is drawn."""

from deploy.telemetry.alerts import RUN, SERIES, VALUE, AlertInputs, Finding, Query, RuleSet, span

WINDOW_S, DRAWS_WINDOW_S = 900, 600
MIN_ESS_SHARE, MIN_ESS_SIZE = 0.01, 1000
"""Share of the buffer's size; the size above which the rule applies."""
MAX_DRAWS = 50
"""Rows drawn per arrival: the demo draws about 3."""

rule = RuleSet()


@rule(
    "quarantine",
    "warning",
    Query(
        "TributaryQuarantine",
        f"sum by (run) (delta({SERIES['buffer.quarantined']}[{span(WINDOW_S)}]))\n"
        f'+ (sum by (run) (delta({SERIES["buffer.refused.REASON"]}{{reason="reward_failed"}}[{span(WINDOW_S)}]))\n'
        f"  or 0 * sum by (run) ({SERIES['buffer.quarantined']})) > 0",
        f"{RUN}: trajectories went into quarantine in the last {WINDOW_S // 60} minutes.",
    ),
)
def _quarantine(inputs: AlertInputs) -> Finding:
    """Trajectories were quarantined."""
    quarantined = inputs.increase("quarantined", WINDOW_S)
    if not quarantined:
        return None
    return (
        f"{quarantined:.0f} strings were quarantined within {WINDOW_S // 60} minutes.",
        "The task's log_reward failed, was too slow or gave no finite number; or a record could not be read.",
        "Read the reasons on the Buffer page. Fix the task and `tributary train --resume`.",
    )


@rule(
    "refusals",
    "info",
    Query(
        "TributaryRefusals",
        f"sum by (run) (delta({SERIES['buffer.refused.REASON']}[{span(WINDOW_S)}]))\n"
        f"> sum by (run) (delta({SERIES['buffer.inserted']}[{span(WINDOW_S)}]))",
        f"{RUN}: the buffer refuses more than it takes in ({VALUE} in {WINDOW_S // 60} minutes).",
        hold="5m",
    ),
)
def _refusals(inputs: AlertInputs) -> Finding:
    """The buffer refuses more than it lets in."""
    refused, inserted = (inputs.increase(total, WINDOW_S) for total in ("refused", "inserted"))
    if refused <= inserted:
        return None
    return (
        f"The buffer refused {refused:.0f} trajectories in {WINDOW_S // 60} minutes and let in {inserted:.0f}.",
        "Actors lag behind (stale), or the policy repeats itself (quota, near_duplicate).",
        "The Buffer page lists the reasons. For `stale`, raise learner.publish_every or buffer.advanced.max_staleness.",
    )


@rule(
    "repeats",
    "warning",
    Query(
        "TributaryRepeats",
        f"sum by (run) (delta({SERIES['buffer.drawn']}[{span(DRAWS_WINDOW_S)}]))\n"
        f"> {MAX_DRAWS} * sum by (run) (delta({SERIES['buffer.inserted']}[{span(DRAWS_WINDOW_S)}])"
        f" + delta({SERIES['buffer.duplicates']}[{span(DRAWS_WINDOW_S)}]))\n"
        f"and on (run) sum by (run) (max_over_time({SERIES['actor.NAME.trajectories']}[1h])) > 0",
        f"{RUN}: over {MAX_DRAWS} rows were drawn per arrival in {DRAWS_WINDOW_S // 60} minutes.",
        hold="5m",
    ),
)
def _repeats(inputs: AlertInputs) -> Finding:
    """The learner lives on replay: hardly anything arrives. Supervised training has no samples, and may."""
    drawn, arrivals = (inputs.increase(total, DRAWS_WINDOW_S) for total in ("drawn", "arrivals"))
    readings = inputs.totals.get("drawn", ())
    is_early = not readings or inputs.now - readings[0][0] < DRAWS_WINDOW_S
    if drawn <= MAX_DRAWS * arrivals or is_early or not inputs.limits.get("samples"):
        return None
    return (
        f"In {DRAWS_WINDOW_S // 60} minutes the learner drew {drawn:,.0f} rows, and {arrivals:,.0f} trajectories "
        "arrived.",
        "Actors or reward workers hang, died, or are far slower than the learner, which repeats what it has.",
        "Look at the waits and at Events. Add actors or reward workers, or set buffer.samples_per_insert.",
    )


@rule(
    "priority_ess",
    "info",
    Query(
        "TributaryFewRowsDrawn",
        f"max by (run) ({SERIES['buffer.priority_ess']})\n"
        f"< {MIN_ESS_SHARE:g} * max by (run) ({SERIES['buffer.size']} > {MIN_ESS_SIZE})",
        f"{RUN}: replay is spread over {VALUE} trajectories, under {100 * MIN_ESS_SHARE:g} % of the buffer.",
        hold="15m",
    ),
)
def _few_drawn(inputs: AlertInputs) -> Finding:
    """Replay draws few trajectories over and over."""
    buffer = inputs.buffer
    if not buffer or buffer["size"] <= MIN_ESS_SIZE or buffer["priority_ess"] >= MIN_ESS_SHARE * buffer["size"]:
        return None
    return (
        f"Replay draws spread over {buffer['priority_ess']:.0f} of {buffer['size']:,} trajectories.",
        "A few priorities are far above the others, so the learner sees the same strings over and over.",
        "Lower buffer.priority_exponent, raise learner.fresh_fraction, or mix learner.priority with recency.",
    )
