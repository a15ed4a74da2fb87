"""Muon for the weight matrices and convolutions, AdamW for what is left."""

import math

import torch
from torch import Tensor, nn


def orthogonalized(matrices: Tensor, iterations: int = 5) -> Tensor:
    """(N, rows, columns) -> the nearest semi-orthogonal ones, about: quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized (Jordan et al., 2024), scaled to AdamW's usual update size (Liu et al., 2025).

    A convolution's kernel counts as the matrix (out, in * height * width). Vectors are given to AdamW instead, so one
    learning rate serves both.
    """

    def __init__(self, module: nn.Module, lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        matrices = [p for p in module.parameters() if p.ndim >= 2 and min(p.shape[0], p[0].numel()) > 1]
        others = [p for p in module.parameters() if not (p.ndim >= 2 and min(p.shape[0], p[0].numel()) > 1)]
        groups = [
            {"params": matrices, "kind": "muon", "momentum": momentum, "weight_decay": weight_decay},
            {"params": others, "kind": "adamw", "betas": (0.9, 0.98), "weight_decay": 0.0},
        ]
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            (self._muon if group["kind"] == "muon" else self._adamw)(group)

    def _muon(self, group: dict) -> None:
        by_shape: dict[tuple[int, int], list[nn.Parameter]] = {}
        for p in group["params"]:
            if p.grad is not None:
                by_shape.setdefault((p.shape[0], p[0].numel()), []).append(p)
        for (rows, columns), params in by_shape.items():
            updates = []
            for p in params:
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                updates.append(p.grad.lerp(state["momentum"], group["momentum"]).reshape(rows, columns))
            scale = 0.2 * math.sqrt(max(rows, columns))
            for p, update in zip(params, orthogonalized(torch.stack(updates)), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.reshape(p.shape), alpha=-group["lr"] * scale)

    def _adamw(self, group: dict) -> None:
        fast, slow = group["betas"]
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if "step" not in state:
                state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            state["step"] += 1
            state["mean"].lerp_(p.grad, 1 - fast)
            state["square"].lerp_(p.grad.square(), 1 - slow)
            mean = state["mean"] / (1 - fast ** state["step"])
            square = state["square"] / (1 - slow ** state["step"])
            p.addcdiv_(mean, square.sqrt_().add_(1e-8), value=-group["lr"])
