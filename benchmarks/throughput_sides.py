"""What `throughput.py` compares: KD training by `distill`, by a plain DataLoader loop and by torchdistill."""

import resource
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler, TensorDataset

from robust_student import METHODS, DistillSettings
from robust_student.core.tensors import UNIT_RANGE
from robust_student.data.augmentation import AugmentationSettings
from robust_student.data.readers.load import Data, Examples
from robust_student.models.model import Model, as_model
from robust_student.training.settings import SelectionSettings, TrainingSettings
from robust_student.training.train import distill

SHAPE, CLASSES, BATCH, PADDING = (1, 28, 28), 10, 128, 2
TEMPERATURE, HARD, RATE, DECAY, CLIP = 4.0, 0.1, 4e-3, 1e-4, 1.0


@dataclass(frozen=True)
class Turn:
    """What one turn of one side took, in seconds."""

    wall: float
    processor: float


@dataclass(frozen=True)
class Task:
    """What every side does."""

    data: Data
    teacher: Model
    epochs: int

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return len(self.data.train) // BATCH

    def student(self) -> Model:
        """A new student in its initial state."""
        torch.manual_seed(0)
        return as_model("cnn:8", self.data)

    def optimisation(self, student: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """What our training settings mean, in plain PyTorch."""
        optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=DECAY)
        total = self.steps * self.epochs + 1
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=total)


def task(images: int, epochs: int) -> Task:
    """Random images and an untrained teacher: a step costs the same."""
    generator = torch.Generator().manual_seed(0)

    def examples(count: int) -> Examples:
        pixels = torch.randint(0, 256, (count, *SHAPE), generator=generator, dtype=torch.uint8)
        return Examples(pixels, torch.randint(CLASSES, (count,), generator=generator))

    held_out = examples(images // 10)
    classes = tuple(str(k) for k in range(CLASSES))
    data = Data("random", examples(images), held_out, classes, UNIT_RANGE, validation=held_out)
    torch.manual_seed(1)
    return Task(data, as_model("cnn:32", data).eval(), epochs)


def timed(work: Callable[[], object]) -> Turn:
    def processor() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    wall, used = time.perf_counter(), processor()
    work()
    return Turn(time.perf_counter() - wall, processor() - used)


# Ours -----------------------------------------------------------------------------------------------------------------


def ours(task: Task, *, cached: bool, changing: bool = False) -> Turn:
    """The whole call of `distill`."""
    training = TrainingSettings(
        epochs=task.epochs,
        batch_size=BATCH,
        learning_rate=RATE,
        weight_decay=DECAY,
        gradient_clip=CLIP,
        device="cpu",
        augmentation=AugmentationSettings(crop=PADDING, flip=True) if changing else AugmentationSettings(),
        selection=SelectionSettings(metric="accuracy"),
    )
    settings = DistillSettings(training=training, objective=METHODS["kd"], cache_scores=cached)
    return timed(lambda: distill(task.teacher, "cnn:8", task.data, settings))


def floor(task: Task) -> Turn:
    """The student's passes and the optimiser alone."""
    student = task.student()
    optimizer, schedule = task.optimisation(student)
    examples = task.data.training_examples
    inputs, labels = examples.floats(slice(0, BATCH)), examples.labels[:BATCH]
    scores = task.teacher.logits(inputs)

    def run() -> None:
        for _ in range(task.epochs):
            for _ in range(task.steps):
                torch.autograd.backward(kd_loss(student(inputs), scores, labels))
                nn.utils.clip_grad_norm_(student.parameters(), CLIP)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()

    return timed(run)


def kd_loss(logits: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Hinton's loss as one writes it in a loop of one's own."""
    student, teacher = (logits / TEMPERATURE).log_softmax(1), (scores / TEMPERATURE).softmax(1)
    soft = functional.kl_div(student, teacher, reduction="batchmean") * TEMPERATURE**2
    return HARD * functional.cross_entropy(logits, labels) + (1 - HARD) * soft


# Plain PyTorch --------------------------------------------------------------------------------------------------------


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Images in memory, each made a float tensor when it is asked for."""

    def __init__(self, examples: Examples, transform: Callable[[Any], Tensor] | None) -> None:
        self.pixels, self.labels, self.transform = examples.inputs, examples.labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.transform is None:
            return self.pixels[index].float() / 255, self.labels[index]
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[index, 0].numpy())), self.labels[index]


def transforms() -> Callable[[Any], Tensor]:
    """Crop and flip as torchdistill's CIFAR configurations name them."""
    from torchvision import transforms as vision

    steps = [vision.RandomCrop(SHAPE[1:], padding=PADDING), vision.RandomHorizontalFlip(), vision.ToTensor()]
    return vision.Compose(steps)


def plain(task: Task, *, workers: int, changing: bool = False) -> Turn:
    """A DataLoader loop as in PyTorch's tutorials."""
    student, teacher = task.student(), task.teacher
    optimizer, schedule = task.optimisation(student)
    examples, held_out = task.data.training_examples, task.data.test
    whole: Dataset[Any] = TensorDataset(examples.inputs, examples.labels)
    whole = Pictures(examples, transforms()) if changing else whole
    train = DataLoader(whole, BATCH, shuffle=True, num_workers=workers, drop_last=True)
    test = DataLoader(TensorDataset(held_out.inputs, held_out.labels), BATCH, num_workers=workers)

    def run() -> None:
        for _ in range(task.epochs):
            student.train()
            for inputs, labels in train:
                inputs = inputs if changing else inputs.float() / 255
                with torch.no_grad():
                    scores = teacher(inputs)
                loss = kd_loss(student(inputs), scores, labels)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(student.parameters(), CLIP)
                optimizer.step()
                schedule.step()
            student.eval()
            with torch.no_grad():
                right = sum(int((student(x.float() / 255).argmax(1) == y).sum()) for x, y in test)
            assert 0 <= right <= len(held_out)

    return timed(run)


# torchdistill ---------------------------------------------------------------------------------------------------------


def find_vision() -> bool:
    """Import torchvision, also where its compiled operators were not built for this torch: nobody here needs them."""
    try:
        library = torch.library.Library("torchvision", "DEF")  # noqa: TOR901
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        pass  # they are there
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return True


def box(task: Task, student: nn.Module, *, workers: int, changing: bool = False) -> Any:
    """torchdistill's distillation box, configured as its sample for KD on CIFAR-10 is."""
    from torchdistill.core.distillation import get_distillation_box

    def loader(name: str, sampler: type) -> dict[str, Any]:
        arguments = {"batch_size": BATCH, "num_workers": workers, "drop_last": False}
        return {"dataset_id": name, "sampler": {"class_or_func": sampler, "kwargs": {}}, "kwargs": arguments}

    place = {"module_path": ".", "module_io": "output"}
    kd = {f"{role}_{name}": value for role in ("student", "teacher") for name, value in place.items()}
    kd |= {"temperature": TEMPERATURE, "alpha": HARD, "reduction": "batchmean"}
    total = task.steps * task.epochs + 1
    configuration = {
        "num_epochs": task.epochs,
        "train_data_loader": loader("train", RandomSampler),
        "val_data_loader": loader("val", SequentialSampler) | {"requires_supp": False},
        "teacher": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": True},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": RATE, "weight_decay": DECAY}, "max_grad_norm": CLIP},
        "scheduler": {"key": "OneCycleLR", "kwargs": {"max_lr": RATE, "total_steps": total}, "scheduling_step": 1},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": kd}, "weight": 1.0}}},
        },
    }
    sets = {
        "train": Pictures(task.data.training_examples, transforms() if changing else None),
        "val": Pictures(task.data.test, None),
    }
    return get_distillation_box(
        deepcopy(task.teacher), student, sets, configuration, torch.device("cpu"), None, False, 1
    )


def torchdistill(task: Task, *, workers: int, changing: bool = False) -> Turn:
    """The loop of torchdistill's examples/torchvision/image_classification.py around its box."""
    from torchdistill.misc.log import MetricLogger, SmoothedValue

    student = task.student()
    trainer = box(task, student, workers=workers, changing=changing)

    def epoch(number: int) -> None:
        trainer.pre_epoch_process(epoch=number)
        logger = MetricLogger(delimiter="  ")
        logger.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
        logger.add_meter("img/s", SmoothedValue(window_size=10, fmt="{value}"))
        for inputs, labels, extra in logger.log_every(trainer.train_data_loader, 100, f"Epoch: [{number}]"):
            started = time.time()
            loss = trainer.forward_process(inputs, labels, extra)
            trainer.post_forward_process(loss=loss)
            logger.update(loss=loss.item(), lr=trainer.optimizer.param_groups[0]["lr"])
            logger.meters["img/s"].update(len(inputs) / (time.time() - started))
            if torch.isnan(loss) or torch.isinf(loss):
                raise ValueError(f"loss = {loss}")
        student.eval()
        logger = MetricLogger(delimiter="  ")
        with torch.inference_mode():
            for inputs, labels in logger.log_every(trainer.val_data_loader, 1000, "Validation:"):
                right = (student(inputs).argmax(1) == labels).float().mean()
                logger.meters["acc1"].update(right.item(), n=len(inputs))
        trainer.post_epoch_process()

    def run() -> None:
        for number in range(task.epochs):
            epoch(number)

    return timed(run)
