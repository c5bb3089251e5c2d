"""All alert rules, each with one threshold for the dashboard and for Prometheus.

A rule's function checks `AlertInputs` for the dashboard and returns (what, cause, remedy). Its decorator holds the
query from which deploy/monitoring/alerts.yml is generated. A docstring says why where one of the two sides is missing.
The dashboard shows an alert at once; Prometheus waits `hold` before it sends one.
"""

from deploy.telemetry import buffer_rules, learning_rules, process_rules
from deploy.telemetry.alerts import Alert, AlertInputs, Rule

RULES: tuple[Rule, ...] = (*process_rules.rule.rules, *learning_rules.rule.rules, *buffer_rules.rule.rules)


def alerts_of(inputs: AlertInputs) -> list[Alert]:
    """All alerts at this time, errors first."""
    alerts = [alert for rule in RULES if (alert := rule.alert(inputs))]
    return sorted(alerts, key=lambda alert: alert.level != "error")
