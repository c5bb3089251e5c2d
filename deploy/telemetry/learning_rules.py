"""Alert rules on the learner and the rewards."""

from statistics import fmean, median

from deploy.telemetry.alerts import RUN, SERIES, VALUE, AlertInputs, Finding, Query, RuleSet, growth, span

WINDOW_S, FAILURE_WINDOW_S = 900, 600
MAX_FAILED_SHARE = 0.01
MAX_FUNCTION_S = 1.0
WINDOW = 50
"""Learner steps in a median of Var(u)."""
MAX_DATA_AGE = 10
"""Versions; fresh rows are 1 to 2 versions old where actors are faster than the learner."""
MAX_MISSING_MASS = 0.2
"""Share of the known mass that fresh draws may leave out."""
MAX_CUT = 0.5
"""Share of samples that policy.max_actions may end."""
CONVERGED = 0.05
"""nats²: below it Var(u) need not fall any more."""

rule = RuleSet()


@rule(
    "no_steps",
    "critical",
    Query(
        "TributaryNoSteps",
        f"sum by (run) (increase({SERIES['learner.steps']}[{span(WINDOW_S)}])) == 0 and on (run) {SERIES['run.waits']}",
        f"{RUN}: no learner step for {WINDOW_S // 60} minutes.",
        hold="1m",
    ),
)
def _no_steps(inputs: AlertInputs) -> Finding:
    """The learner has stopped stepping. A long evaluation after training raises it too."""
    if inputs.last_step_at is None or inputs.now - inputs.last_step_at <= WINDOW_S:
        return None
    return (
        f"The learner has made no step for {(inputs.now - inputs.last_step_at) / 60:.0f} minutes.",
        "It waits for data, hangs, or a step takes longer than that. After training, an evaluation is still running.",
        "Look at the waits and at the time of a step. If it hangs, stop the run and `tributary train --resume` it.",
    )


@rule(
    "learner_starved",
    "info",
    Query(
        "TributaryLearnerStarved",
        f"max by (run) (rate({SERIES['learner.waited_s']}[{span(WINDOW_S)}])) > 0.5",
        f"{RUN}: the learner waits for data {{{{ $value | humanizePercentage }}}} of its time.",
        hold="15m",
    ),
)
def _learner_starved(inputs: AlertInputs) -> Finding:
    """The learner waits most of its time. Prometheus only: the dashboard names the bottleneck instead."""
    return None


@rule(
    "skipped",
    "warning",
    Query(
        "TributarySkippedSteps",
        f"sum by (run) (\n  {growth(SERIES['learner.skipped_steps'], WINDOW_S)}\n) > 0",
        f"{RUN}: {VALUE} steps in {WINDOW_S // 60} minutes had a loss or gradient that was not finite.",
    ),
)
def _skipped(inputs: AlertInputs) -> Finding:
    """Steps were skipped."""
    skipped = inputs.increase("skipped_steps", WINDOW_S)
    if not skipped:
        return None
    return (
        f"{skipped:.0f} steps of the last {WINDOW_S // 60} minutes were skipped: loss or gradient was not finite.",
        "Rewards that are huge, or a precision too low for them. The batches are in quarantine.",
        "Lower learner.learning_rate, look at the rewards, or raise model.dtype's precision.",
    )


@rule(
    "rewards_fail",
    "warning",
    Query(
        "TributaryRewardsFail",
        f"sum by (run) (increase({SERIES['reward.NAME.failed']}[{span(FAILURE_WINDOW_S)}]))\n"
        f"> {MAX_FAILED_SHARE:g} * sum by (run) (increase({SERIES['reward.NAME.strings']}[{span(FAILURE_WINDOW_S)}]))",
        f"{RUN}: {VALUE} strings in {FAILURE_WINDOW_S // 60} minutes could not be scored, "
        f"over {100 * MAX_FAILED_SHARE:g} %.",
        hold="1m",
    ),
)
def _rewards_fail(inputs: AlertInputs) -> Finding:
    """Many strings cannot be scored."""
    failed, strings = (inputs.increase(total, FAILURE_WINDOW_S) for total in ("failed", "strings"))
    if failed <= MAX_FAILED_SHARE * strings:
        return None
    return (
        f"{failed:.0f} of {strings:.0f} strings of the last {FAILURE_WINDOW_S // 60} minutes could not be scored.",
        "The task's log_reward raises, is too slow, or returns no finite number.",
        "Read the reasons on the Buffer page. Fix the task and `tributary train --resume`.",
    )


@rule(
    "rewards_slow",
    "info",
    Query(
        "TributaryRewardsSlow",
        f"max by (run) ({SERIES['reward.NAME.function_s']}) > {MAX_FUNCTION_S:g}",
        f"{RUN}: the task's function takes {{{{ $value | humanizeDuration }}}} a string.",
        hold="5m",
    ),
)
def _rewards_slow(inputs: AlertInputs) -> Finding:
    """The task's own functions are slow."""
    slowest = max((worker["function_s"] for worker in inputs.workers), default=0.0)
    if slowest <= MAX_FUNCTION_S:
        return None
    return (
        f"The task's functions take {slowest:.1f} s per string.",
        "They run once for each new string; at rewards.time_limit_s a string is quarantined.",
        "Make them faster (cache, batch), or add rewards.workers.",
    )


@rule("var_u", "warning")
def _not_falling(inputs: AlertInputs) -> Finding:
    """Var(u) does not fall. Dashboard only: Prometheus would need the first WINDOW steps, which it may have dropped."""
    if len(inputs.var_u) < 3 * WINDOW:
        return None
    first, newest = median(inputs.var_u[:WINDOW]), median(inputs.var_u[-WINDOW:])
    if newest <= max(0.9 * first, CONVERGED):
        return None
    return (
        f"Var(u) does not fall: {newest:.3g} nats² over the last {WINDOW} steps, {first:.3g} over the first.",
        "The policy does not approach the posterior: steps too small or too large, rewards that jump, or data that "
        "misses the mass.",
        "Look at gradient norm and loss; try another learner.learning_rate, a reward temperature that starts higher, "
        "or a tempered behaviour.",
    )


@rule(
    "old_data",
    "warning",
    Query(
        "TributaryOldData",
        f"max by (run) ({SERIES['learner.staleness_mean']}) > {MAX_DATA_AGE}",
        f"{RUN}: fresh rows were sampled {VALUE} versions ago.",
        hold="5m",
    ),
)
def _old_data(inputs: AlertInputs) -> Finding:
    """Fresh rows are old when the learner gets them."""
    if len(inputs.data_ages) < WINDOW or median(inputs.data_ages) <= MAX_DATA_AGE:
        return None
    return (
        f"Fresh rows were sampled {median(inputs.data_ages):.0f} versions ago, median of {WINDOW} steps.",
        "Strings wait long for their reward, generation takes many learner steps, or adapters reach the actors late.",
        "Raise learner.publish_every, add rewards.workers, or lower actors.max_in_flight.",
    )


@rule(
    "missing_mass",
    "warning",
    Query(
        "TributaryMissesMass",
        f"max by (run) ({SERIES['learner.missing_mass']}) > {MAX_MISSING_MASS:g}",
        f"{RUN}: known strings hold {{{{ $value | humanizePercentage }}}} more mass than the policy's draws tell.",
        hold="10m",
    ),
)
def _missing_mass(inputs: AlertInputs) -> Finding:
    """The policy does not draw strings that are known to have much of the target's mass."""
    if len(inputs.missing_mass) < WINDOW or median(inputs.missing_mass) <= MAX_MISSING_MASS:
        return None
    return (
        f"The policy misses mass: its draws leave out {median(inputs.missing_mass):.0%} of the known mass, median of "
        f"{WINDOW} steps.",
        "Good strings are in the buffer, but the policy hardly draws them. At the beginning of a run this is normal.",
        'Train longer, set learner.objective = "group_subtb", or draw them more often: learner.priority = "reward".',
    )


@rule(
    "cut_off",
    "warning",
    Query(
        "TributaryCutOff",
        f"max by (run) ({SERIES['learner.cut']}) > {MAX_CUT:g}",
        f"{RUN}: policy.max_actions cuts off {{{{ $value | humanizePercentage }}}} of the samples.",
        hold="10m",
    ),
)
def _cut_off(inputs: AlertInputs) -> Finding:
    """Most samples reach policy.max_actions before they stop."""
    if len(inputs.cut) < WINDOW or fmean(inputs.cut) <= MAX_CUT:
        return None
    return (
        f"policy.max_actions cut off {fmean(inputs.cut):.0%} of the fresh on-policy samples of {WINDOW} steps.",
        "The policy has no room to finish, or has not learnt to stop: u and Var(u) jump at the last position.",
        "Raise policy.max_actions, or give strings that are cut off a low reward. Look at Samples.",
    )


@rule("equal_rewards", "warning")
def _equal_rewards(inputs: AlertInputs) -> Finding:
    """All rewards are equal. Dashboard only: the quantiles of log R are recorded and not exported."""
    if inputs.limits.get("equal_rewards") or len(inputs.spreads) < 5 or max(inputs.spreads) > 1e-6:
        return None  # a task may list strings of one reward as its target: then this is the goal
    return (
        "All fresh strings have the same reward.",
        "The reward does not distinguish strings, or the policy samples one string only.",
        "Look at Samples. If strings differ, check the task's log_reward; if not, add tempered behaviours.",
    )


@rule("diversity", "warning")
def _collapsed(inputs: AlertInputs) -> Finding:
    """The policy repeats itself. Dashboard only: diversity is recorded and not exported."""
    if len(inputs.diversity) < 5 or max(inputs.diversity) >= 0.2:
        return None
    return (
        f"At most {100 * max(inputs.diversity):.0f} % of the fresh on-policy strings of a step differ.",
        "The policy repeats a few strings. If the target has more than these, it has collapsed to one of its modes.",
        "Add tempered and suppress_stop behaviours, raise the reward temperature, or use group_subtb.",
    )
