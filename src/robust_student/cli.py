"""The command `robust-student`: what each of its commands takes and does."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import Field, ValidationError

from robust_student import terminal
from robust_student.arguments import Command, Config, Flat, Paths, command_name, merged, parse
from robust_student.checkup import Doctor
from robust_student.core.errors import UserError, nearest, short
from robust_student.core.settings import LARGEST_SEED
from robust_student.measuring import Certify, Evaluate
from robust_student.models.settings import TeacherSettings
from robust_student.objectives.settings import METHODS, ObjectiveSettings
from robust_student.runtime.interruption import Interrupted, Terminated, terminable
from robust_student.training.settings import DistillSettings, SelectionSettings, TrainingSettings


class Demo(Command):
    """Teacher, plain student and robust student on embedded data, evaluated and reported."""

    output: Path = Path("runs/demo")
    """Directory to write."""
    overwrite: bool = False
    """Replace the output directory of an earlier demo once the new one is complete."""
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    """Seed of everything random."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""

    def run(self) -> None:
        """Do it."""
        from robust_student.demo import FILES, run_demo
        from robust_student.models.run_directory import require_new
        from robust_student.runtime.files import replacing

        if not self.overwrite:
            require_new(self.output)
        elif self.output.is_dir() and any(self.output.iterdir()) and not (self.output / FILES[0]).exists():
            raise UserError(f"output {self.output}: is not the result of a demo; choose another name or remove it")
        with replacing(self.output) as draft:
            records = run_demo(draft, seed=self.seed, device=self.device, say=terminal.stage)
        terminal.show(records, self.output / "report.html")


class Train(Command):
    """Train a network on labels: this is how teachers are made."""

    data: str
    """digits, folder:DIR (one sub-folder per class), mnist:DIR, cifar10:DIR, cifar100:DIR, parquet:DIR, npz:FILE,
    csv:FILE, hf:NAME_OR_PATH, or a stream: wds:SHARDS, hf-stream:NAME_OR_PATH (docs/data.md)."""
    model: str
    """linear, mlp:WIDTHS, cnn:WIDTH, resnet20, wrn-16-2, ..., timm:NAME, torchvision:NAME, hub:USER/REPO,
    pkg.module:factory or file.py:factory (docs/models.md)."""
    output: Path
    """New run directory."""
    image_size: int | tuple[int, int] | None = None
    """Side, or height and width, in pixels to which image files are resized; None: by the rules of the source."""
    training: Annotated[TrainingSettings, Flat] = TrainingSettings(selection=SelectionSettings(metric="accuracy"))
    config: Config = None
    """YAML file with any of these settings; flags win over it."""

    def run(self) -> None:
        """Do it."""
        from robust_student.data.readers.load import load_data, require_outside
        from robust_student.models.run_directory import require_new
        from robust_student.runtime.distributed import first, joined, rank
        from robust_student.training.train import train

        with joined(self.training.device):
            first(lambda: require_new(self.output))
            require_outside(self.output, self.data)
            data = load_data(self.data, image_size=self.image_size)
            trained = train(self.model, data, self.training, output=self.output)
            if rank() == 0:
                terminal.finished(trained, self.output)


class Distill(Command):
    """Teach a small student to be accurate and robust."""

    teacher: str
    """The teacher: a run directory; timm:NAME or torchvision:NAME with ,pretrained or @WEIGHTS; hub:USER/REPO or a
    folder in the hub's layout; pkg.module:factory[@WEIGHTS], file.py:factory[@WEIGHTS]; a .pt2 program
    (docs/models.md)."""
    data: str
    """digits, folder:DIR, mnist:DIR, ... (see train --help, docs/data.md): the data the teacher was trained on."""
    model: str
    """The student: linear, mlp:WIDTHS, cnn:WIDTH, resnet20, wrn-16-2, ..., timm:NAME, torchvision:NAME, hub:USER/REPO,
    pkg.module:factory or file.py:factory (docs/models.md)."""
    output: Path
    """New run directory."""
    image_size: int | None = Field(None, ge=4)
    """Side in pixels to which folder images are resized; None: what a run as teacher expects, else their common size
    up to 64, else 32."""
    trust: bool = False
    """Call code that a .pt2 file holds or somebody else's run names."""
    method: str = "secant"
    """Starting point for the objective: kd, score, exact, direct, projection, secant, secant-exact or certified."""
    max_accuracy_drop: float | None = Field(None, ge=0)
    """Search R and C2 on validation for the most robust student that loses at most this many points of clean
    accuracy against plain distillation, then train it; None: no search."""
    tries: int = Field(8, ge=1, le=12)
    """Candidates of that search, each trained for half the epochs."""
    cache_scores: bool = True
    """Keep the teacher's scores on unchanging training inputs on disk, for the next run with the same teacher."""
    shard_teacher: bool = False
    """Spread the teacher's weights over the processes of a torchrun (FSDP): for teachers too big for one device."""
    teaching: Annotated[TeacherSettings, Flat] = TeacherSettings()
    training: Annotated[TrainingSettings, Flat] = TrainingSettings()
    objective: Annotated[ObjectiveSettings, Flat] = METHODS["secant"]
    config: Config = None
    """YAML file with any of these settings; flags win over it."""

    @classmethod
    def complete(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The objective starts from the method that a flag or the file names."""
        method = given.get("method", "secant")
        if not isinstance(method, str) or method not in METHODS:
            raise UserError(
                f"distill: unknown method {short(method)}"
                + nearest(method if isinstance(method, str) else "", list(METHODS))
            )
        objective = given.get("objective") or {}
        if isinstance(objective, dict):
            return given | {"objective": merged(METHODS[method].model_dump(), objective), "method": method}
        return given

    def run(self) -> None:
        """Do it."""
        from robust_student.data.readers.load import load_data, require_outside
        from robust_student.models.open_model import expected_shape
        from robust_student.models.run_directory import require_new
        from robust_student.runtime.distributed import first, joined, rank
        from robust_student.training.search import search
        from robust_student.training.teacher import open_teacher, validation_examples
        from robust_student.training.train import distill

        if self.max_accuracy_drop is None and self.tries != type(self).model_fields["tries"].default:
            raise UserError("tries: are those of a search; name --max-accuracy-drop, too")
        with joined(self.training.device):
            first(lambda: require_new(self.output))
            require_outside(self.output, self.data)
            shape = expected_shape([self.teacher]) if self.image_size is None else None
            data = load_data(self.data, shape=shape, image_size=self.image_size)
            held_out = validation_examples(data, self.training.validation_fraction, self.training.seed)
            teacher = open_teacher(self.teacher, data, held_out, self.teaching, trust=self.trust)
            settings = DistillSettings(
                training=self.training,
                objective=self.objective,
                cache_scores=self.cache_scores,
                shard_teacher=self.shard_teacher,
            )
            if self.max_accuracy_drop is None:
                trained = distill(teacher, self.model, data, settings, output=self.output)
            else:
                trained = search(
                    teacher,
                    self.model,
                    data,
                    settings,
                    max_accuracy_drop=self.max_accuracy_drop,
                    tries=self.tries,
                    output=self.output,
                )
            if rank() == 0:
                if self.max_accuracy_drop is not None:
                    terminal.show_search(trained.model.search or {})
                terminal.finished(trained, self.output)


class Report(Command):
    """Turn what `evaluate` or `certify` wrote into a page, Markdown or JSON; it recomputes nothing of a model."""

    directories: Paths
    """Directory that `evaluate` or `certify` wrote; two or more of `evaluate` with --compare or --seeds."""
    compare: bool = False
    """Put the evaluations side by side and compare each model with the first one's of that name, else its baseline."""
    seeds: bool = False
    """Average models of the same names over evaluations with other seeds: mean, sd, n, Student's t interval."""
    certificates: Path | None = None
    """Directory that `certify` wrote, to be shown below an evaluation."""
    format: Literal["html", "markdown", "json"] | None = None
    """What to write; None: by the suffix of the output (.html, .md, .json), html where there is none."""
    output: Path | None = None
    """File to write; None: report.html, report.md or report.json (report-with-certificates.*, comparison.*, seeds.*)
    in the first directory."""
    overwrite: bool = False
    """Replace an existing file."""

    def run(self) -> None:
        """Do it."""
        from robust_student.report.write import write_report

        if not self.directories:
            raise UserError("report: name at least one directory")
        if self.compare and self.seeds:
            raise UserError("report: --compare and --seeds exclude each other")
        kind: Literal["report", "comparison", "seeds"]
        kind = "comparison" if self.compare else "seeds" if self.seeds else "report"
        style = self.format or _format(self.output)
        suffix = {"html": "html", "markdown": "md", "json": "json"}[style]
        name = kind if self.certificates is None else f"{kind}-with-certificates"
        output = self.output if self.output is not None else self.directories[0] / f"{name}.{suffix}"
        if output.exists() and not self.overwrite:
            raise UserError(f"output {output}: exists already; choose another name or pass --overwrite")
        write_report(self.directories, output, certificates=self.certificates, kind=kind, style=style)
        print(f"report: {output}")


class Predict(Command):
    """Classify image files."""

    images: Paths
    """Image files of any size; they are resized to the model's input."""
    model: str
    """Run directory of the model, or hub:USER/REPO of a run."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    trust: bool = False
    """Call code that somebody else's run names."""

    def run(self) -> None:
        """Do it."""
        import torch

        from robust_student.core.tensors import answers
        from robust_student.data.readers.load import read_image
        from robust_student.models.open_model import open_model
        from robust_student.runtime.hardware import resolve_device

        if not self.images:
            raise UserError("predict: name at least one image file")
        model = open_model(self.model, trust=self.trust).to(resolve_device(self.device))
        inputs = torch.stack([read_image(image, model.card.input_shape) for image in self.images])
        logits = model.logits(inputs)
        confidence = logits.softmax(dim=1).amax(dim=1)
        for image, k, value in zip(self.images, answers(logits).tolist(), confidence.tolist(), strict=True):
            print(f"{image}\t{'no answer (NaN)' if k < 0 else model.card.classes[k]}\t{value:.4f}")


COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "train": Train,
    "distill": Distill,
    "evaluate": Evaluate,
    "certify": Certify,
    "report": Report,
    "predict": Predict,
    "doctor": Doctor,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends with one line on standard error and exit code 2."""
    try:
        with terminable():
            parse(arguments, COMMANDS).run()
    except (UserError, ValidationError) as error:
        message = str(error) if isinstance(error, UserError) else error.errors()[0]["msg"].removeprefix("Value error, ")
        _complain(message)
    except MemoryError:
        _complain("out of memory; lower --batch-size, the size of the images or the width of the model")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # PyTorch's, of a GPU; torch need not be imported to see it
            raise
        _complain(f"out of memory; lower --batch-size or choose another --device ({str(error).splitlines()[0]})")
    except BrokenPipeError:  # the reader of our output has gone: nothing left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Interrupted as interruption:
        print(f"robust-student: {interruption}", file=sys.stderr)
        raise SystemExit(128 + interruption.number) from None
    except KeyboardInterrupt as stop:
        resumable = command_name(arguments) in ("evaluate", "certify")
        more = "; the same command goes on from what is measured" if resumable else ""
        print(f"robust-student: interrupted{more}", file=sys.stderr)
        number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
        raise SystemExit(128 + number) from None


def _complain(message: str) -> NoReturn:
    """One line on standard error, whatever a file's name or content put into the message; exit code 2."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in message)
    if len(shown) > 700:
        shown = f"{shown[:500]} ... {shown[-150:]}"
    print(f"robust-student: error: {shown}", file=sys.stderr)
    raise SystemExit(2) from None


def _format(output: Path | None) -> Literal["html", "markdown", "json"]:
    """The format that a file's suffix asks for."""
    if output is None or output.suffix in (".html", ".htm"):
        return "html"
    if output.suffix in (".md", ".markdown"):
        return "markdown"
    if output.suffix == ".json":
        return "json"
    raise UserError(f"output {output}: ends in none of .html, .md and .json; rename it or pass --format")
