"""Robust Student: distil a small network that is accurate and robust to input perturbations, and prove it honestly.

Implements the objectives of Guo et al., "Robust Student Network Learning" (arXiv 1807.11158).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robust_student.attacks.autoattack import AutoAttack as AutoAttack
    from robust_student.attacks.pgd import Pgd as Pgd
    from robust_student.attacks.pgd import pgd as pgd
    from robust_student.bounds.certified import Certifier as Certifier
    from robust_student.bounds.estimated import estimated_confidence_radius as estimated_confidence_radius
    from robust_student.bounds.estimated import estimated_decision_radius as estimated_decision_radius
    from robust_student.core.errors import UserError as UserError
    from robust_student.core.norms import Norm as Norm
    from robust_student.core.tensors import InputRange as InputRange
    from robust_student.core.threat_model import ThreatModel as ThreatModel
    from robust_student.corruptions.kinds import corrupt as corrupt
    from robust_student.data.augmentation import AugmentationSettings as AugmentationSettings
    from robust_student.data.readers.load import Data as Data
    from robust_student.data.readers.load import data_from_datasets as data_from_datasets
    from robust_student.data.readers.load import load_data as load_data
    from robust_student.evaluation.certify import certify as certify
    from robust_student.evaluation.evaluate import evaluate as evaluate
    from robust_student.evaluation.result import Certification as Certification
    from robust_student.evaluation.result import Evaluation as Evaluation
    from robust_student.evaluation.result import Record as Record
    from robust_student.evaluation.settings import CertificationSettings as CertificationSettings
    from robust_student.evaluation.settings import CorruptionSettings as CorruptionSettings
    from robust_student.evaluation.settings import EvaluationSettings as EvaluationSettings
    from robust_student.models.model import Model as Model
    from robust_student.models.open_model import open_model as open_model
    from robust_student.models.registry import build as build
    from robust_student.models.run_directory import load as load
    from robust_student.models.settings import TeacherSettings as TeacherSettings
    from robust_student.objectives.batch import Batch as Batch
    from robust_student.objectives.batch import Terms as Terms
    from robust_student.objectives.methods import METHODS as METHODS
    from robust_student.objectives.robust_student import RobustStudentObjective as RobustStudentObjective
    from robust_student.objectives.settings import ObjectiveSettings as ObjectiveSettings
    from robust_student.report.write import write_report as write_report
    from robust_student.results.perturbation import Perturbation as Perturbation
    from robust_student.training.search import search as search
    from robust_student.training.settings import DistillSettings as DistillSettings
    from robust_student.training.settings import SelectionSettings as SelectionSettings
    from robust_student.training.settings import TrainingSettings as TrainingSettings
    from robust_student.training.train import Trained as Trained
    from robust_student.training.train import distill as distill
    from robust_student.training.train import train as train

_PLACES = {
    # Models and data
    "Data": "robust_student.data.readers.load",
    "Model": "robust_student.models.model",
    "build": "robust_student.models.registry",
    "data_from_datasets": "robust_student.data.readers.load",
    "load": "robust_student.models.run_directory",
    "load_data": "robust_student.data.readers.load",
    "open_model": "robust_student.models.open_model",
    # Training
    "Trained": "robust_student.training.train",
    "distill": "robust_student.training.train",
    "search": "robust_student.training.search",
    "train": "robust_student.training.train",
    # The objective, for a training loop of your own
    "Batch": "robust_student.objectives.batch",
    "RobustStudentObjective": "robust_student.objectives.robust_student",
    "Terms": "robust_student.objectives.batch",
    # Evidence
    "Certification": "robust_student.evaluation.result",
    "Evaluation": "robust_student.evaluation.result",
    "Perturbation": "robust_student.results.perturbation",
    "Record": "robust_student.evaluation.result",
    "certify": "robust_student.evaluation.certify",
    "corrupt": "robust_student.corruptions.kinds",
    "evaluate": "robust_student.evaluation.evaluate",
    "write_report": "robust_student.report.write",
    # Attacks
    "AutoAttack": "robust_student.attacks.autoattack",
    "Pgd": "robust_student.attacks.pgd",
    "pgd": "robust_student.attacks.pgd",
    # Bounds and norms
    "Certifier": "robust_student.bounds.certified",
    "InputRange": "robust_student.core.tensors",
    "Norm": "robust_student.core.norms",
    "ThreatModel": "robust_student.core.threat_model",
    "estimated_confidence_radius": "robust_student.bounds.estimated",
    "estimated_decision_radius": "robust_student.bounds.estimated",
    # Settings
    "AugmentationSettings": "robust_student.data.augmentation",
    "CertificationSettings": "robust_student.evaluation.settings",
    "CorruptionSettings": "robust_student.evaluation.settings",
    "DistillSettings": "robust_student.training.settings",
    "EvaluationSettings": "robust_student.evaluation.settings",
    "METHODS": "robust_student.objectives.methods",
    "ObjectiveSettings": "robust_student.objectives.settings",
    "SelectionSettings": "robust_student.training.settings",
    "TeacherSettings": "robust_student.models.settings",
    "TrainingSettings": "robust_student.training.settings",
    # Errors
    "UserError": "robust_student.core.errors",
}
"""The module of every public name, imported when the name is first asked for: PyTorch takes seconds."""


def __getattr__(name: str) -> Any:
    """The public name, from its module."""
    if name not in _PLACES:
        raise AttributeError(f"module 'robust_student' has no attribute '{name}'")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted(_PLACES)
