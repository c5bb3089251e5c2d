"""Tasks: prompts, an unnormalised target over strings, and how samples are judged. One file each."""

TASKS = {
    "arithmetic": "rewards.tasks.arithmetic:ArithmeticTask",
    "constrained": "rewards.tasks.constrained:ConstrainedTask",
    "continue": "rewards.tasks.continuation:ContinueTask",
    "contrastive": "rewards.tasks.contrastive:ContrastiveTask",
    "custom": "rewards.tasks.custom:CustomTask",
    "infill": "rewards.tasks.infill:InfillTask",
    "integer": "rewards.tasks.integer:IntegerTask",
    "solutions": "rewards.tasks.solutions:SolutionsTask",
    "subjectivity": "rewards.tasks.subjectivity:SubjectivityTask",
    "verifiable": "rewards.tasks.verifiable:VerifiableTask",
    "toy": "rewards.tasks.toys:ToyTask",
}
"""Name in a recipe -> module:Class, imported on demand."""
