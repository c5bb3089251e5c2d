"""A base model from its folder."""

import torch


def device_of(name: str) -> torch.device:
    """The torch device that a setting names: auto is a GPU where there is one."""
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)
