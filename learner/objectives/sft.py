"""Supervised fine-tuning: the likelihood of given strings, whatever their reward. A baseline and a warm start.

L = − Σ_batch log q(Z ⊤ | X) / B
"""

from learner.objectives.balance import Estimates, Loss


def sft(estimates: Estimates, lam: float) -> Loss:
    """Reads log_q [B]; not u, not λ. For demonstrations: on samples of the policy it only sharpens them."""
    loss = -estimates.log_q
    return Loss(loss.sum(), loss.new_tensor(len(loss)), loss.detach())
