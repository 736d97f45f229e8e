"""The command `robust-student`: flags and YAML in, settings objects out; the only room that parses arguments."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import Field, ValidationError
from rich.console import Console
from rich.table import Table

from robust_student.settings import (
    METHODS,
    CertificationSettings,
    DistillSettings,
    EvaluationSettings,
    ObjectiveSettings,
    SelectionSettings,
    Settings,
    TrainingSettings,
    nearest,
    read_yaml,
)
from robust_student.tensors import UserError

Flat = tyro.conf.arg(name="")
"""Mark of a group whose flags carry no prefix."""
Config = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]


class Demo(Settings):
    """Teacher, plain student and robust student on embedded data, evaluated and reported."""

    output: Path = Path("runs/demo")
    """Directory to write."""
    overwrite: bool = False
    """Replace the output directory of an earlier demo once the new one is complete."""
    seed: int = Field(0, ge=0)
    """Seed of everything random."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""

    def run(self) -> None:
        """Do it."""
        from robust_student.demo import FILES, run_demo
        from robust_student.runs import replacing, require_new

        if not self.overwrite:
            require_new(self.output)
        elif self.output.is_dir() and any(self.output.iterdir()) and not (self.output / FILES[0]).exists():
            raise UserError(f"output {self.output}: is not the result of a demo; choose another name or remove it")
        with replacing(self.output) as draft:
            records = run_demo(draft, seed=self.seed, device=self.device)
        _show(records, self.output / "report.html")


class Train(Settings):
    """Train a network on labels: this is how teachers are made."""

    data: str
    """digits, mnist:DIR, folder:DIR (one sub-folder per class), npz:FILE or parquet:DIR."""
    model: str
    """linear, mlp:WIDTHS, cnn:WIDTH, resnet8, resnet20, lipschitz:WIDTHS or pkg.module:factory."""
    output: Path
    """New run directory."""
    image_size: int | None = Field(None, ge=4)
    """Side in pixels to which folder images are resized; None: their common size up to 64, else 32."""
    training: Annotated[TrainingSettings, Flat] = TrainingSettings(selection=SelectionSettings(metric="accuracy"))
    config: Config = None
    """YAML file with any of these settings; flags win over it."""

    def run(self) -> None:
        """Do it."""
        from robust_student.data import load_data
        from robust_student.runs import require_new
        from robust_student.training import train

        require_new(self.output)
        data = load_data(self.data, image_size=self.image_size)
        trained = train(self.model, data, self.training, output=self.output)
        _finished(trained, self.output)


class Distill(Settings):
    """Teach a small student to be accurate and robust."""

    teacher: Path
    """Run directory of the teacher."""
    data: str
    """digits, mnist:DIR, folder:DIR, npz:FILE or parquet:DIR: the data the teacher was trained on."""
    model: str
    """The student: linear, mlp:WIDTHS, cnn:WIDTH, resnet8, resnet20, lipschitz:WIDTHS or pkg.module:factory."""
    output: Path
    """New run directory."""
    method: str = "secant"
    """Starting point for the objective: kd, score, exact, direct, projection, secant or secant-exact."""
    max_accuracy_drop: float | None = Field(None, ge=0)
    """Search R and C2 on validation for the most robust student that loses at most this many points of clean
    accuracy against plain distillation, then train it; None: no search."""
    tries: int = Field(8, ge=1, le=12)
    """Candidates of that search, each trained for half the epochs."""
    training: Annotated[TrainingSettings, Flat] = TrainingSettings()
    objective: Annotated[ObjectiveSettings, Flat] = METHODS["secant"]
    config: Config = None
    """YAML file with any of these settings; flags win over it."""

    def run(self) -> None:
        """Do it."""
        from robust_student.data import load_data
        from robust_student.runs import load, require_new
        from robust_student.search import search
        from robust_student.training import distill

        require_new(self.output)
        teacher = load(self.teacher)
        data = load_data(self.data, shape=teacher.card.input_shape)
        settings = DistillSettings(training=self.training, objective=self.objective)
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
            _show_search(trained.model.search or {})
        _finished(trained, self.output)


class Evaluate(Settings):
    """Measure models on the same test examples: noise, attacks, masking verdict, estimated radii, size, speed."""

    models: tyro.conf.Positional[tuple[str, ...]]
    """Run directories, each as NAME=DIR or DIR; or NAME=file.py:factory@WEIGHTS for a network of your own (also
    pkg.module:factory; WEIGHTS: a state_dict in a .safetensors or torch.save file)."""
    data: str
    """digits, mnist:DIR, folder:DIR, npz:FILE or parquet:DIR; only the test split is used."""
    output: Path
    """Directory for rows.jsonl, summary.json and the rest; the same command continues an interrupted evaluation."""
    evaluation: Annotated[EvaluationSettings, Flat] = EvaluationSettings()
    config: Config = None
    """YAML file with any of these settings; flags win over it."""

    def run(self) -> None:
        """Do it."""
        from robust_student.evaluation import evaluate

        models, data = _models(self.models, self.data, "evaluate")
        records = evaluate(models, data, self.evaluation, output=self.output)
        _show(records, self.output / "summary.json")


class Certify(Settings):
    """Bound the perturbation that each example survives, from below (certified) and from above (attacks)."""

    models: tyro.conf.Positional[tuple[str, ...]]
    """Run directories, each as NAME=DIR or DIR; bound B and agreement refer to the one named teacher."""
    data: str
    """digits, mnist:DIR, folder:DIR, npz:FILE or parquet:DIR; only the test split is used."""
    output: Path
    """Directory for rows.jsonl, summary.json and the rest; the same command continues an interrupted run."""
    certification: Annotated[CertificationSettings, Flat] = CertificationSettings()
    config: Config = None
    """YAML file with any of these settings; flags win over it."""

    def run(self) -> None:
        """Do it."""
        from robust_student.certification import certify

        models, data = _models(self.models, self.data, "certify")
        records = certify(models, data, self.certification, output=self.output)
        _show_radii(records, self.output / "summary.json")


class Report(Settings):
    """Turn an evaluation or certificates into one self-contained HTML page; it recomputes nothing of a model."""

    evaluation: tyro.conf.Positional[Path]
    """Directory that `evaluate` or `certify` wrote."""
    certificates: Path | None = None
    """Directory that `certify` wrote, to be shown below an evaluation."""
    output: Path | None = None
    """HTML file to write; None: report.html in the first directory."""
    overwrite: bool = False
    """Replace an existing file."""

    def run(self) -> None:
        """Do it."""
        from robust_student.report import write_report

        output = self.output if self.output is not None else self.evaluation / "report.html"
        if output.exists() and not self.overwrite:
            raise UserError(f"output {output}: exists already; choose another name or pass --overwrite")
        write_report(self.evaluation, output, self.certificates)
        print(f"report: {output}")


class Predict(Settings):
    """Classify image files."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files of any size; they are resized to the model's input."""
    model: Path
    """Run directory of the model."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""

    def run(self) -> None:
        """Do it."""
        import torch

        from robust_student.data import read_image
        from robust_student.runs import load, resolve_device

        if not self.images:
            raise UserError("predict: name at least one image file")
        model = load(self.model, device=resolve_device(self.device))
        inputs = torch.stack([read_image(image, model.card.input_shape) for image in self.images])
        confidence, best = model.logits(inputs).softmax(dim=1).max(dim=1)
        for image, k, value in zip(self.images, best.tolist(), confidence.tolist(), strict=True):
            print(f"{image}\t{model.card.classes[k]}\t{value:.4f}")


COMMANDS: dict[str, type[Settings]] = {
    "demo": Demo,
    "train": Train,
    "distill": Distill,
    "evaluate": Evaluate,
    "certify": Certify,
    "report": Report,
    "predict": Predict,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends with one line on standard error and exit code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = _parse(words)
        command.run()  # type: ignore[attr-defined]
    except (UserError, ValidationError) as error:
        message = str(error) if isinstance(error, UserError) else error.errors()[0]["msg"].removeprefix("Value error, ")
        print(f"robust-student: error: {message}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # the reader of our output has gone: nothing left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("robust-student: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _parse(words: list[str]) -> Settings:
    """The command that the words ask for, with defaults from its YAML file and its method."""
    defaults = {name: _defaults(kind, words[1:] if words[:1] == [name] else []) for name, kind in COMMANDS.items()}
    union = tyro.extras.subcommand_type_from_defaults(
        defaults, {name: kind.__doc__ or "" for name, kind in COMMANDS.items()}, prefix_names=False
    )
    config = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.EnumChoicesFromValues)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(union, args=words, prog="robust-student", config=config)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_one_line(complaint.getvalue(), words)) from None


def _defaults(kind: type[Settings], words: list[str]) -> Settings:
    """An instance to start from: YAML values over the method's over the built-in ones; MISSING where none is given."""
    path = _value(words, "--config")
    given: dict[str, Any] = read_yaml(Path(path)) if path is not None and "config" in kind.model_fields else {}
    source = f"config {path}"
    if kind is Distill:
        method = _value(words, "--method") or given.get("method", "secant")
        if not isinstance(method, str) or method not in METHODS:
            raise UserError(f"distill: unknown method '{method}'" + nearest(str(method), list(METHODS)))
        objective = given.get("objective") or {}
        if isinstance(objective, dict):
            given = given | {"objective": _merged(METHODS[method].model_dump(), objective), "method": method}
    if kind is Train and isinstance(given.get("training"), dict):
        given = given | {"training": _merged({"selection": {"metric": "accuracy"}}, given["training"])}
    required = [name for name, field in kind.model_fields.items() if field.is_required() and name not in given]
    placeholders = {name: ("x",) if name in ("models", "images") else "x" for name in required}
    instance = kind.parse(given | placeholders, source)
    return instance.model_copy(update={name: tyro.MISSING for name in required})


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` put over it, group by group."""
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _value(words: list[str], flag: str) -> str | None:
    """The value of a flag given as `--flag VALUE` or `--flag=VALUE`."""
    for position, word in enumerate(words):
        if word == flag and position + 1 < len(words):
            return words[position + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _one_line(complaint: str, words: list[str]) -> str:
    """tyro's boxed complaint as one line."""
    text = re.sub(r"^.*╮$", "", complaint, flags=re.MULTILINE)  # the box's title
    text = re.sub(r"[╭╮╰╯─│]+", " ", text)
    text = re.sub(r"For full helptext.*", " ", " ".join(text.split()))
    text = re.sub(r" in robust-student \w+ --help", "", text)
    command = f" {words[0]}" if words and words[0] in COMMANDS else ""
    return f"{text.strip().rstrip('.')} (see robust-student{command} --help)"


def _models(texts: Sequence[str], data_spec: str, command: str) -> tuple[dict[str, Any], Any]:
    """The models named as [NAME=]SOURCE, and the data; SOURCE is a run directory or SPEC[@WEIGHTS]."""
    from robust_student.data import load_data
    from robust_student.models import build
    from robust_student.runs import as_model, load
    from robust_student.weights import load_weights

    if not texts:
        raise UserError(f"{command}: name at least one run directory")
    sources: dict[str, str] = {}
    for text in texts:
        name, _, source = text.rpartition("=")
        if not source:
            raise UserError(f"{command}: '{text}' names no directory; write NAME=DIR")
        name = name or Path(source).resolve().name.partition("@")[0]
        if name in sources:
            raise UserError(f"{command}: two models are called '{name}'; name them as NAME=DIR")
        sources[name] = source
    foreign = {name for name, source in sources.items() if ":" in source and not Path(source).is_dir()}
    models: dict[str, Any] = {name: load(source) for name, source in sources.items() if name not in foreign}
    first = next(iter(models.values()), None)
    data = load_data(data_spec, shape=None if first is None else first.card.input_shape)
    for name in foreign:
        spec, _, file = sources[name].partition("@")
        network = build(spec, data.shape, len(data.classes))
        if file:
            load_weights(network, Path(file))
        models[name] = as_model(network, data)
    return {name: models[name] for name in sources}, data


def _finished(trained: Any, output: Path) -> None:
    figures = ", ".join(f"{name} {100 * value:.1f} %" for name, value in trained.validation.items())
    print(f"epoch {trained.best_epoch} of {len(trained.history)} kept; validation: {figures}")
    print(f"model: {output}")


def _show_search(record: dict[str, Any]) -> None:
    """The trade-off curve of a search as a table."""
    table = Table(title="search on validation", title_justify="left")
    for column in ("radius", "weight", "clean", "selection", ""):
        table.add_column(column, justify="left" if column == "" else "right")
    plain = record["baseline"]
    table.add_row("", "plain", f"{100 * plain['clean']:.1f}", f"{100 * plain['selection']:.1f}", "")
    for k, attempt in enumerate(record["tries"]):
        accuracies = attempt["validation"]
        mark = "chosen" if k == record["chosen"] else "" if attempt["accepted"] else "drops too much"
        figures = f"{100 * accuracies['clean']:.1f}", f"{100 * accuracies['selection']:.1f}"
        table.add_row(f"{attempt['radius']:.4g}", f"{attempt['weight']:.4g}", *figures, mark)
    Console().print(table)


def _show(records: list[dict[str, Any]], path: Path) -> None:
    """The headline figures as a table, and where the rest is."""
    from robust_student.evaluation import headline

    table = Table(title="test accuracy in % with 95 % intervals", title_justify="left")
    lines = headline(records)
    noise = next((line["noise"] for line in lines if line["noise"]), None)
    attack = next((line["autoattack"] for line in lines if line["autoattack"]), None)
    table.add_column("model")
    table.add_column("parameters", justify="right")
    table.add_column("clean", justify="right")
    table.add_column(f"noise {noise['setting']:g} dB" if noise else "noise", justify="right")
    table.add_column(f"AutoAttack {attack['unit']} {attack['setting']:g}" if attack else "AutoAttack", justify="right")
    table.add_column("masking")
    for line in lines:
        verdict = (line["autoattack"] or {}).get("verdict") or {}
        cells = (_percent(line[name]) for name in ("clean", "noise", "autoattack"))
        table.add_row(line["model"], f"{line['parameters']:,}", *cells, verdict.get("level", "not run"))
    console = Console()
    console.print(table)
    print(f"{'report' if path.suffix == '.html' else 'summary'}: {path}")


def _show_radii(records: list[dict[str, Any]], path: Path) -> None:
    """Certified and attacked accuracy by budget and median radii, from the best deterministic certificate."""
    from robust_student.results import find

    names = list(dict.fromkeys(record["model"] for record in records))
    kind, unit = "certified_decision_radius", records[0]["unit"]
    title = f"decision under {unit} perturbations: examples in % with 95 % intervals, medians of radii"
    table = Table(title=title, title_justify="left")
    budgets = sorted({record["setting"] for record in records if record["metric"] == "attack_accuracy"})
    table.add_column("model", no_wrap=True)
    for budget in budgets:
        table.add_column(f"certified\n{budget:g}", justify="right")
    for heading in (f"stands\n{budgets[-1]:g}", "certified\nradius", "attack\nradius", "violations"):
        table.add_column(heading, justify="right")
    for name in names:
        held = [_percent(record) for record in find(records, name, "certified_accuracy", kind)] or ["-"] * len(budgets)
        attacked = find(records, name, "attack_accuracy", "attack_decision_radius")
        radii = [find(records, name, f"median_{side}_decision_radius") for side in ("certified", "attack")]
        medians = ["-" if not found or found[0]["value"] is None else f"{found[0]['value']:.4g}" for found in radii]
        broken = find(records, name, "sandwich_violations", kind)
        count = f"{broken[0]['value']:.0f} of {broken[0]['n']}" if broken else "-"
        table.add_row(name, *held, _percent(attacked[-1]), *medians, count)
    Console().print(table)
    for name in names:
        for record in find(records, name, "certified_accuracy", "certified_smoothed_radius"):
            print(f"{name}, smoothed: {_percent(record)} certified at {unit} {record['setting']:g}, n = {record['n']}")
    print(f"summary: {path}")


def _percent(record: dict[str, Any] | None) -> str:
    if record is None or record["value"] is None:
        return "-"
    return f"{100 * record['value']:.1f} [{100 * record['low']:.1f}, {100 * record['high']:.1f}]"
