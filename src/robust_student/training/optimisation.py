"""How parameters move: optimiser and learning rate, the limit on the gradient, the moving average of the weights."""

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from robust_student.objectives.batch import Terms
from robust_student.runtime import distributed
from robust_student.training.settings import TrainingSettings


class Optimisation:
    """Optimiser and learning-rate schedule of one training."""

    def __init__(self, objective: nn.Module, settings: TrainingSettings, steps: int) -> None:
        """For `steps` steps, at least one, of the trainable parameters of an objective: the model's and its own."""
        self.parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        rate, decay = settings.learning_rate, settings.weight_decay
        self.optimizer: torch.optim.Optimizer
        if settings.optimizer == "adamw":
            self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=decay)
        else:
            self.optimizer = torch.optim.SGD(self.parameters, lr=rate, weight_decay=decay, momentum=0.9, nesterov=True)
        self.schedule: torch.optim.lr_scheduler.LRScheduler
        if settings.schedule == "one_cycle":
            self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rate, total_steps=steps + 1)
        else:
            self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=steps)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def step(self) -> None:
        """Move the parameters along their gradients, and the learning rate along its schedule."""
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)

    def skip(self, steps: int) -> None:
        """Move the learning rate along its schedule as if that many steps had been taken."""
        for _ in range(steps):
            self.schedule.step()

    def state(self) -> dict[str, object]:
        """All that a later `restore` needs."""
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def restore_moments(self, state: dict[str, dict[str, object]]) -> None:
        """Go on with the optimiser's moments of a state, at today's learning rate."""
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})

    def restore(self, state: dict[str, dict[str, object]]) -> None:
        """Go on from a state."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def averaged_model(model: nn.Module, decay: float) -> AveragedModel | None:
    """The exponential moving average of a model's weights, w' <- decay w' + (1 - decay) w after every step.

    Buffers (BatchNorm statistics) are copied. None where `decay` is 0.
    """
    if decay == 0:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=average)


def limit_gradient(parameters: list[nn.Parameter], limit: float | None) -> float:
    """Scale the gradient down to the Euclidean norm `limit` where it is longer; return the norm it had."""
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    return float(nn.utils.clip_grad_norm_(moved, limit if limit is not None else math.inf))


def any_failure(terms: list[Terms], size: float, stop: int) -> tuple[str | None, int]:
    """What went wrong in this step in any process (None: nothing), and the signal that any process heard (0: none).

    All processes get the same answer, so that all of them continue or none does.
    """
    names = list(terms[0].values)
    flags = [stop, int(not math.isfinite(size))]
    flags += [int(not all(bool(part.values[name].isfinite().all()) for part in terms)) for name in names]
    flags += [int(not all(bool(part.loss.detach().isfinite()) for part in terms))]
    if distributed.size() > 1:
        device = next(iter(terms[0].values.values())).device
        flags = [int(flag) for flag in distributed.all_reduce_max(torch.tensor(flags, device=device)).tolist()]
    guilty = [name for name, flag in zip(names, flags[2:-1], strict=True) if flag]
    if guilty:
        return f"term '{guilty[0]}' is NaN or infinite", flags[0]
    return ("the gradient is NaN or infinite" if flags[1] or flags[-1] else None), flags[0]


def mean_of(values: list[Tensor]) -> Tensor:
    """The mean over equally large parts of a batch."""
    return torch.stack([value.detach().mean() for value in values]).mean()
