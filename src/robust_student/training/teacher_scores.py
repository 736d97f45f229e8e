"""The teacher's scores on training inputs: computed once and kept on disk, or on every batch where inputs change."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from robust_student.core.errors import UserError
from robust_student.core.module_state import device_of, evaluating, frozen
from robust_student.core.tensors import Inputs, Labels, Logits
from robust_student.data.cache import cache_directory
from robust_student.data.examples import Examples
from robust_student.data.streams import Stream
from robust_student.models.model import Model
from robust_student.runtime import distributed
from robust_student.runtime.files import write_atomically

_BATCH = 256  # four times as many leave the cache of a CPU: 5 to 35 % slower
_PROBED = 16


class TeacherScores:
    """A frozen teacher that answers with its logits in evaluation mode; its own mode is left as it was."""

    def __init__(self, teacher: Model, *, sharded: bool = False, cache: bool = True) -> None:
        """Of a teacher that is on its device.

        Args:
            teacher: who is asked.
            sharded: `prepare` is to spread its weights over the processes (FSDP).
            cache: `prepare` may read and keep scores on disk.
        """
        self.teacher, self.device, self.sharded, self.cache = teacher, device_of(teacher), sharded, cache
        self._prepared: Tensor | None = None

    def prepare(self, source: Examples | Stream, *, ahead: bool) -> None:
        """Spread the weights; `ahead`: compute the scores on every training input, or read those of an earlier run.

        Inputs that are streamed are answered as they come, like those that change (augmentation), for which nothing is
        to be computed ahead. The cache is keyed by the teacher's network, weights and normalisation and the content of
        the training set. Raises UserError where a score is not finite.
        """
        path = self._path(source) if ahead and self.cache and isinstance(source, Examples) else None
        if self.sharded and distributed.size() > 1:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import FSDPModule, fully_shard

        if self.sharded and distributed.size() > 1 and not isinstance(self.teacher.network, FSDPModule):
            self.teacher.requires_grad_(False)  # before: the shards keep it
            fully_shard(self.teacher.network, mesh=init_device_mesh(self.device.type, (distributed.size(),)))
        if not ahead or isinstance(source, Stream):
            return
        scores = None if path is None else distributed.rank_zero(lambda: _read(path, len(source)))
        if scores is None or not self._agrees(scores, source):
            scores = self._all(source)
            if not bool(scores.isfinite().all()):
                raise UserError("teacher: its scores on the training inputs hold NaN or infinite values")
            if path is not None:
                written = scores
                distributed.rank_zero(lambda: _write(path, written))
        self._prepared = scores.to(self.device)

    def prepared_scores(self, examples: Labels) -> Logits | None:
        """The prepared scores of the examples of these numbers in the training set; None where none are prepared."""
        return None if self._prepared is None else self._prepared[examples]

    def __call__(self, points: Inputs) -> Logits:
        """The teacher's logits of any points, differentiable with respect to them where gradients are on."""
        with evaluating(self.teacher), frozen(self.teacher):
            return self.teacher(points)

    def features(self, inputs: Inputs, layers: Sequence[str]) -> dict[str, Tensor]:
        """Outputs of the teacher's named layers (see `Model.features`)."""
        with evaluating(self.teacher), frozen(self.teacher):
            return self.teacher.features(inputs, layers)

    def _all(self, source: Examples) -> Tensor:
        """Logits on every example; each process computes a share of them, all of the same number of batches."""
        count, ranks = len(source), distributed.size()
        share = -(-count // ranks)
        own_positions = torch.arange(distributed.rank() * share, (distributed.rank() + 1) * share) % count
        parts = [self.teacher.logits(source.floats(part)) for part in torch.split(own_positions, _BATCH)]
        return distributed.all_gather(torch.cat(parts).to(self.device))[:count].cpu()

    def _agrees(self, scores: Tensor, source: Examples) -> bool:
        """Whether the teacher still answers so on a few examples: the code of its network may have changed.

        Another batch size or processor rounds otherwise, so scores may differ by a thousandth of their spread.
        """
        few = self.teacher.logits(source.floats(slice(0, _PROBED)))
        return torch.allclose(few, scores[:_PROBED], rtol=1e-6, atol=1e-3 * few.std().item())

    def _path(self, source: Examples) -> Path:
        mark = hashlib.sha256(f"{self.teacher.digest()} {source.digest()}".encode()).hexdigest()
        return cache_directory() / f"scores-{mark[:32]}.safetensors"


def _read(path: Path, count: int) -> Tensor | None:
    """Scores of an earlier run, or None where there are none that can be used."""
    try:
        scores = safetensors.torch.load_file(path)["scores"]
    except (OSError, safetensors.SafetensorError, KeyError):
        return None
    whole = scores.dim() == 2 and len(scores) == count and scores.dtype == torch.float32
    return scores if whole and bool(scores.isfinite().all()) else None


def _write(path: Path, scores: Tensor) -> None:
    """Keep the scores; a full or read-only disk only costs the next run its time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, safetensors.torch.save({"scores": scores.contiguous()}))
    except OSError:
        return
