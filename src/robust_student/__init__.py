"""Robust Student: distil a small network that is accurate and robust to input perturbations, and prove it honestly.

Implements the objectives of Guo et al., "Robust Student Network Learning" (arXiv 1807.11158).
"""

# Models and data
# Bounds and norms
from robust_student.bounds import estimated_confidence_radius as estimated_confidence_radius
from robust_student.bounds import estimated_decision_radius as estimated_decision_radius
from robust_student.corruptions import corrupt as corrupt
from robust_student.data import Data as Data
from robust_student.data import data_from_datasets as data_from_datasets
from robust_student.data import load_data as load_data

# Evidence
from robust_student.evaluation import evaluate as evaluate
from robust_student.measurement_settings import CorruptionSettings as CorruptionSettings
from robust_student.measurement_settings import EvaluationSettings as EvaluationSettings
from robust_student.norms import Norm as Norm

# The objective, for a training loop of your own
from robust_student.objective import RobustStudentObjective as RobustStudentObjective
from robust_student.objective import Terms as Terms
from robust_student.runs import Model as Model
from robust_student.runs import load as load

# Settings
from robust_student.settings import METHODS as METHODS
from robust_student.settings import DistillSettings as DistillSettings
from robust_student.settings import ObjectiveSettings as ObjectiveSettings
from robust_student.settings import TrainingSettings as TrainingSettings
from robust_student.sources import open_model as open_model
from robust_student.teacher_settings import TeacherSettings as TeacherSettings
from robust_student.tensors import InputRange as InputRange
from robust_student.tensors import UserError as UserError

# Training
from robust_student.training import distill as distill
from robust_student.training import train as train
