"""What a run reports: figures, recorder, events, alert rules, sinks, logs, live view."""
