"""One training run in several processes, started by `torchrun`, on one host or several.

Each batch is divided among the processes, batch normalisation uses the statistics of the whole batch, the split dev is
scored in parallel, and DistributedDataParallel averages the gradients. Only dropout is drawn per process.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from aasist_lib.base.errors import UserError
from aasist_lib.models.layers import BatchNorm

ACCELERATORS = ("cpu", "gpu", "auto")


def world() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) unless started by torchrun."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def device(accelerator: str) -> torch.device:
    """Where this process computes, for "cpu", "gpu" or "auto"; UserError if that is unknown or lacks GPUs."""
    if accelerator not in ACCELERATORS:
        raise UserError(f"compute.accelerator: '{accelerator}' is none of {', '.join(ACCELERATORS)}")
    existing, wanted = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if accelerator == "gpu" and existing < wanted:
        raise UserError(
            f"compute.accelerator: gpu, but torch finds {existing} here, not {wanted}: set it to cpu or auto"
        )
    if accelerator == "cpu" or existing < wanted:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


@contextmanager
def group(place: torch.device) -> Iterator[None]:
    """Connect the processes of torchrun, each of which computes on its `place`."""
    if world()[1] == 1:
        yield
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def parallel(network: nn.Module, some_frozen: bool) -> nn.Module:
    """The network with its gradients averaged over all processes; `some_frozen`: in some epochs some have none."""
    if world()[1] == 1:
        return network
    # the buffers are identical in all processes already
    return DistributedDataParallel(network, broadcast_buffers=False, find_unused_parameters=some_frozen)


def share(batch_size: int) -> int:
    """Share of a batch per process, in pairs of a bona fide and a spoofed utterance; UserError if uneven."""
    size = world()[1]
    if size > 1 and batch_size % (2 * size):
        raise UserError(f"train.batch_size: {batch_size} is not so many pairs for each of {size} processes alike")
    return batch_size // size


class Share(Sampler):
    """This process's part, `count` draws, of each batch of `draws`."""

    def __init__(self, draws, count: int):
        self.draws, self.count = draws, count
        self.rank, self.size = world()

    def set_epoch(self, epoch: int) -> None:
        self.draws.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.draws) // self.size

    def __iter__(self) -> Iterator:
        return (draw for place, draw in enumerate(self.draws) if place // self.count % self.size == self.rank)


def all_sum(values: np.ndarray, place: torch.device | str = "cpu") -> np.ndarray:
    """The sum over all processes, bit-identical in each."""
    if world()[1] == 1:
        return values
    total = torch.from_numpy(np.array(values, dtype=np.float64)).to(place)
    distributed.all_reduce(total)
    return total.cpu().numpy()


class _Summed(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    backward = forward


class SharedBatchNorm(BatchNorm):
    """Batch normalisation over equal shares of a batch in all processes; torch's SyncBatchNorm needs GPUs."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        size, over, shape = world()[1], [0, *range(2, x.ndim)], (-1, *[1] * (x.ndim - 2))
        mean = _Summed.apply(x.mean(over)) / size
        apart = x - mean.view(shape)
        variance = _Summed.apply(apart.square().mean(over)) / size
        with torch.no_grad():
            count = size * x.numel() // x.shape[1]
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return apart * scale.view(shape) + self.bias.view(shape)


def share_batch_norm(network: nn.Module) -> None:
    """Let batch normalisation see the whole batch where several processes share it."""
    if world()[1] > 1:
        for part in network.modules():
            if isinstance(part, BatchNorm):
                part.__class__ = SharedBatchNorm  # the same weights under the same names


def check_same_epoch(epochs: int, place: torch.device | str) -> None:
    """Refuse to train where processes resume from different epochs."""
    if all_sum(np.array(epochs), place) != world()[1] * epochs:
        raise UserError(
            "the processes have different checkpoints: run all from one folder that their hosts share, or start afresh"
        )


def launch(call: dict, processes: int, folder: Path) -> None:
    """Train in several processes on this host, up to the last checkpoint; `call` holds the arguments of `fit`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "call.json"
    path.write_text(json.dumps(call), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(call["threads"])}
    try:
        code = subprocess.run([*command, "-m", "aasist_lib.training", str(path)], env=environment).returncode
    finally:
        path.unlink()
    if code:
        raise UserError(f"compute.devices: one of the {processes} processes failed, see above")
