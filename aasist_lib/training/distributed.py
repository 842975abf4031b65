"""One training in several processes, on one host or several.

`torchrun` starts the processes and its environment says how many there are; here is what makes them train as one does:
every batch is dealt out, batch normalisation takes the mean of all shares, and the split dev is scored by all together.
Gradients are averaged by torch's DistributedDataParallel. What dropout drops is each process's own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, distributed, nn
from torch.utils.data import Sampler

from aasist_lib.base.errors import UserError
from aasist_lib.models.layers import BatchNorm

ACCELERATORS = ("cpu", "gpu", "auto")


def world() -> tuple[int, int]:
    """Which of the processes this is, from 0, and how many there are: (0, 1) unless torchrun started it."""
    if not TorchElasticEnvironment.detect():
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def chosen(accelerator: str) -> str:
    """What computes: "cpu" or "gpu"; "auto" takes a GPU where there is one.

    Raises
    ------
    UserError
        There is no such accelerator, or no GPU for every process on this host.
    """
    if accelerator not in ACCELERATORS:
        raise UserError(f"compute.accelerator: '{accelerator}' is none of {', '.join(ACCELERATORS)}")
    there, wanted = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if world()[1] > 1 else 1
    if accelerator == "auto":
        return "gpu" if there >= wanted else "cpu"
    if accelerator == "gpu" and there < wanted:
        raise UserError(f"compute.accelerator: gpu, but torch finds {there} here, not {wanted}: set it to cpu or auto")
    return accelerator


def trainer(accelerator: str, some_frozen: bool = False) -> dict:
    """Arguments of Lightning's Trainer: what computes, and with which other processes.

    Parameters
    ----------
    accelerator : {"cpu", "gpu"}
    some_frozen : bool
        Whether weights that are trained at some time stay as they are at others.
    """
    size = world()[1]
    if size == 1:
        # else Lightning looks for a cluster to join
        return {"accelerator": accelerator, "devices": 1, "plugins": [LightningEnvironment()]}
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    strategy = DDPStrategy(
        process_group_backend="nccl" if accelerator == "gpu" else "gloo",
        broadcast_buffers=False,  # they are the same everywhere
        find_unused_parameters=some_frozen,
    )
    return {
        "accelerator": accelerator, "devices": here, "num_nodes": size // here, "strategy": strategy,
        "plugins": [TorchElasticEnvironment()],
    }  # fmt: skip


def share(batch_size: int) -> int:
    """How much of a batch each process gets: whole couples of a bona fide and a spoofed utterance.

    Raises
    ------
    UserError
        They cannot all get as many.
    """
    size = world()[1]
    if size > 1 and batch_size % (2 * size):
        raise UserError(f"train.batch_size: {batch_size} is not so many couples for each of {size} processes alike")
    return batch_size // size


class Share(Sampler):
    """Of each batch of `draws`, the part of this process, `count` draws."""

    def __init__(self, draws, count: int):
        self.draws, self.count = draws, count
        self.rank, self.size = world()

    def set_epoch(self, epoch: int) -> None:
        self.draws.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.draws) // self.size

    def __iter__(self) -> Iterator:
        return (draw for place, draw in enumerate(self.draws) if place // self.count % self.size == self.rank)


def of_all(values: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
    """The sum over all processes, the same bytes in each."""
    if world()[1] == 1:
        return values
    total = torch.from_numpy(np.array(values, dtype=np.float64)).to(device)
    distributed.all_reduce(total)
    return total.cpu().numpy()


class _Summed(torch.autograd.Function):
    """The sum over all processes; of what it decides in each, the gradients add up too."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    backward = forward


class SharedBatchNorm(BatchNorm):
    """Batch normalisation over the batch that all processes hold together, equal shares of it.

    torch's own, SyncBatchNorm, is for GPUs alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, ...) -> the same shape."""
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
    """Let the batch normalisations of a network see the whole batch, where several processes share it."""
    if world()[1] > 1:
        for part in network.modules():
            if isinstance(part, BatchNorm):
                part.__class__ = SharedBatchNorm  # the same weights under the same names


def agree(epochs: int, device: torch.device | str) -> None:
    """Refuse to train where processes would go on from different epochs."""
    if of_all(np.array(epochs), device) != world()[1] * epochs:
        raise UserError(
            "the processes find different checkpoints: run all from one folder that their hosts share, or start afresh"
        )


def launch(call: dict, processes: int, folder: Path) -> None:
    """Train in so many processes on this host, up to a checkpoint that only has to be written out.

    Parameters
    ----------
    call : dict
        What `training.fit` is to be given; JSON can hold it.
    processes : int
    folder : path
        Where the call is put down for them to read.

    Raises
    ------
    UserError
        One of them failed; what it had to say it has said.
    """
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
