"""The training loop: `train` makes teachers, `distill` makes students; the best epoch is chosen on validation."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional

from robust_student.augmentation import Mixed, augment
from robust_student.data import Data, Examples, split
from robust_student.draws import Draws, step_seed
from robust_student.norms import Norm
from robust_student.objective import RobustStudentObjective, Terms
from robust_student.runs import (
    METRICS,
    Model,
    append_jsonl,
    as_model,
    provenance,
    replacing,
    require_fit,
    require_new,
    resolve_device,
    save,
)
from robust_student.settings import DistillSettings, SelectionSettings, Settings, TrainingSettings
from robust_student.tensors import UserError
from robust_student.validation import Validation, choose_epoch

Step = Callable[[Mixed, Tensor, Draws, float], Terms]
"""Maps a batch, the examples' positions in the training set, draws and the share of the training done to terms."""

TEACHER_SETTINGS = TrainingSettings(selection=SelectionSettings(metric="accuracy"))
"""Defaults of `train`: the best epoch is the one of highest clean validation accuracy."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model with the record of how it came about."""

    model: Model
    """In evaluation mode, with the weights of the best epoch."""
    history: list[dict[str, Any]]
    """One record per epoch: mean terms, validation accuracies, learning rate, speed."""
    best_epoch: int
    """The epoch whose weights were kept, from 1."""

    @property
    def validation(self) -> dict[str, float]:
        """Validation accuracies of the best epoch."""
        return self.history[self.best_epoch - 1]["validation"]


def train(
    network: str | nn.Module,
    data: Data,
    settings: TrainingSettings | None = None,
    *,
    output: Path | None = None,
) -> Trained:
    """Train a network on labels with cross-entropy; this is how teachers are made.

    Args:
        network: a name for `models.build`, or a module that takes inputs in natural units.
        data: from `load_data`.
        settings: optimisation; default: TEACHER_SETTINGS.
        output: new run directory to write; None writes nothing.

    Raises UserError on bad input and where the loss diverges.
    """
    settings = settings if settings is not None else TEACHER_SETTINGS
    with _seeded(settings), _draft(output) as draft:
        model = as_model(network, data)

        def step(batch: Mixed, positions: Tensor, draws: Draws, progress: float) -> Terms:
            logits = model(batch.inputs)
            first = functional.cross_entropy(logits, batch.labels, reduction="none")
            second = functional.cross_entropy(logits, batch.others, reduction="none")
            loss = batch.shares * first + (1 - batch.shares) * second
            return Terms({"cross_entropy": loss}, {"cross_entropy": 1.0})

        return _fit(model, data, settings, lambda examples, device: step, draft, settings)


def distill(
    teacher: Model | nn.Module,
    student: str | nn.Module,
    data: Data,
    settings: DistillSettings | None = None,
    *,
    output: Path | None = None,
) -> Trained:
    """Teach a student with the robust student objective.

    The teacher is frozen and in evaluation mode; its scores on the training inputs are computed once.

    Args:
        teacher: a loaded model, or any module from natural units to logits.
        student: a name for `models.build`, or a module that takes inputs in natural units.
        data: from `load_data`.
        settings: optimisation and objective.
        output: new run directory to write; None writes nothing.

    Raises UserError where teacher, student and data do not belong together, and where the loss diverges.
    """
    settings = settings if settings is not None else DistillSettings()
    with _seeded(settings.training), _draft(output) as draft:
        if isinstance(teacher, Model):
            require_fit(teacher, data, "teacher")
        guide = as_model(teacher, data)
        model = as_model(student, data)
        norm = Norm.named(settings.objective.norm, data.scale)
        objective = RobustStudentObjective(model, settings.objective, norm=norm, input_range=data.input_range)

        def prepare(examples: Examples, device: torch.device) -> Step:
            guide.to(device).eval()
            scores = None if settings.training.augmentation.anything else _teacher_scores(guide, examples).to(device)

            def step(batch: Mixed, positions: Tensor, draws: Draws, progress: float) -> Terms:
                objective.progress = progress
                with torch.no_grad():
                    known = guide(batch.inputs) if scores is None else scores[positions]
                return objective(batch.inputs, batch.labels, known, draws)

            return step

        return _fit(model, data, settings.training, prepare, draft, settings)


@contextmanager
def _draft(output: Path | None) -> Iterator[Path | None]:
    """A draft directory that becomes `output` only when it is complete: no half-trained run looks like one."""
    if output is None:
        yield None
        return
    require_new(output)
    with replacing(output) as draft:
        yield draft


def _fit(
    model: Model,
    data: Data,
    settings: TrainingSettings,
    prepare: Callable[[Examples, torch.device], Step],
    output: Path | None,
    recorded: Settings,
) -> Trained:
    """The loop shared by `train` and `distill`: steps, validation after each epoch, the best weights kept."""
    device = resolve_device(settings.device)
    training, held_out = split(data.training_examples, settings.validation_fraction, settings.seed)
    validation = Validation(held_out, settings.selection, scale=data.scale, seed=settings.seed)
    model.to(device).train()
    step = prepare(training, device)
    resident = training.to(device)
    batch_size = min(settings.batch_size, max(8, len(training) // 16))
    batches = max(1, len(training) // batch_size)
    optimizer, schedule = _optimizer(model, settings, batches * settings.epochs)
    _note(model, **provenance(recorded.model_dump(mode="json"), data.name, settings.seed))
    history: list[dict[str, Any]] = []
    best_epoch, weights = 0, dict[int, dict[str, Tensor]]()
    with _progress() as progress:
        task = progress.add_task("training", total=batches * settings.epochs, status="")
        for epoch in range(1, settings.epochs + 1):
            started = time.perf_counter()
            sums: dict[str, Tensor] = {}
            model.train()
            order = torch.Generator().manual_seed(step_seed(settings.seed, epoch))
            permutation = torch.randperm(len(training), generator=order).to(device)
            for number, positions in enumerate(torch.split(permutation, batch_size)[:batches], start=1):
                taken = (epoch - 1) * batches + number
                torch.manual_seed(step_seed(settings.seed, taken))
                draws = Draws(settings.seed, taken, positions)
                batch = augment(resident.floats(positions), resident.labels[positions], settings.augmentation, draws)
                terms = step(batch, positions, draws, taken / (batches * settings.epochs))
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(terms.loss)
                _guard(model, terms, settings.gradient_clip, f"step {number} of epoch {epoch}")
                optimizer.step()
                schedule.step()
                for name, value in terms.values.items():
                    sums[name] = sums.get(name, torch.zeros(())).to(value) + value.detach().mean()
                if number % 10 == 0 or number == batches:
                    status = ", ".join(f"{name} {float(total) / number:.3f}" for name, total in sums.items())
                    rate = number * batch_size / (time.perf_counter() - started)
                    progress.update(task, completed=(epoch - 1) * batches + number)
                    progress.update(task, status=f"epoch {epoch}/{settings.epochs}: {status} | {rate:,.0f} examples/s")
            seconds = time.perf_counter() - started
            record = {
                "epoch": epoch,
                "terms": {name: float(total) / batches for name, total in sums.items()},
                "validation": validation.measure(model),
                "learning_rate": schedule.get_last_lr()[0],
                "seconds": round(seconds, 3),
                "examples_per_second": round(batches * batch_size / seconds, 1),
            }
            history.append(record)
            weights[epoch] = deepcopy(model.state_dict())
            measured = [entry["validation"] for entry in history]
            weights = {e: w for e, w in weights.items() if not _dominated(measured[e - 1], measured[e:])}
            chosen = choose_epoch(measured, len(held_out)) + 1
            if output is not None and chosen != best_epoch:
                model.load_state_dict(weights[chosen])
                _note(model, epoch=chosen)
                save(model, output)
                model.load_state_dict(weights[epoch])
            best_epoch = chosen
            if output is not None:
                append_jsonl(output / METRICS, [record])
    model.load_state_dict(weights[best_epoch])
    _note(model, epoch=best_epoch)
    model.history = history
    return Trained(model.eval(), history, best_epoch)


def _note(model: Model, **facts: Any) -> None:
    """Add facts to the provenance on the model's card."""
    model.card = model.card.model_copy(update={"provenance": model.card.provenance | facts})


def _dominated(earlier: dict[str, float], later: Sequence[dict[str, float]]) -> bool:
    """Whether some later epoch is at least as good both on clean inputs and by the selection metric."""
    return any(entry["clean"] >= earlier["clean"] and entry["selection"] >= earlier["selection"] for entry in later)


def _optimizer(
    model: nn.Module, settings: TrainingSettings, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise UserError("model: has no trainable parameters")
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, momentum=0.9, nesterov=True
        )
    if settings.schedule == "one_cycle":
        schedule: torch.optim.lr_scheduler.LRScheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=steps + 1
        )
    else:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    return optimizer, schedule


def _guard(model: nn.Module, terms: Terms, limit: float | None, place: str) -> None:
    """Clip the gradient; stop with the guilty term's name where the loss or the gradient is not finite."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    size = float(nn.utils.clip_grad_norm_(parameters, limit if limit is not None else math.inf))
    if math.isfinite(size) and bool(torch.isfinite(terms.loss.detach())):
        return
    guilty = [name for name, value in terms.values.items() if not bool(torch.isfinite(value).all())]
    what = f"term '{guilty[0]}' is NaN or infinite" if guilty else "the gradient is NaN or infinite"
    raise UserError(f"training diverged: {what} at {place}; lower the learning rate or that term's weight")


def _teacher_scores(teacher: Model, examples: Examples) -> Tensor:
    """Logits of the frozen teacher on every training input, computed once."""
    parts = torch.split(torch.arange(len(examples)), 4096)
    scores = torch.cat([teacher.logits(examples.floats(part)) for part in parts])
    if not bool(scores.isfinite().all()):
        raise UserError("teacher: its scores on the training inputs hold NaN or infinite values")
    return scores


@contextmanager
def _seeded(settings: TrainingSettings) -> Iterator[None]:
    """Seed the global generators (initial weights, dropout) and leave them afterwards as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        yield


def _progress() -> Progress:
    """A progress bar on standard error; silent where that is not a terminal."""
    console = Console(stderr=True)
    columns = (BarColumn(20), TextColumn("{task.percentage:3.0f}%"), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[status]}"), console=console, disable=not console.is_terminal)
