"""Tasks: prompts, an unnormalised target over strings, and how the result is judged. One file each."""

from rewards.task import Task
from rewards.tasks.integer import IntegerTask

TASKS: dict[str, type[Task]] = {"integer": IntegerTask}
"""By the name that a recipe gives."""
