"""The reports of a run: figures, recorder, events, alert rules, sinks, logs, live view."""
