"""Training on several processes that ``torchrun`` started: the same training as in one process with their joint batch.

Every process runs the networks on its share of a batch. What they give and the losses need is small (scores, flags,
embeddings, stage-4 features): `gathered` brings it together, so that all processes compute the same losses of the whole
batch, by the code that one process uses. Random numbers are drawn alike everywhere, for the whole batch. DDP takes the
mean of the gradients: of what all computed alike that is the same; what came through a process's share only
`gathered` has multiplied by their number, so that the mean is the sum. Both together are the whole batch's gradient.

The first process alone measures, decides and writes; `on_rank_zero` hands on what it found. Where one process trains,
every function here gives back what it was given.
"""

from __future__ import annotations

import inspect
import itertools
import os
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from napari_lpd.core.errors import LpdError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # others wait while the first validates; torchrun ends them when one has died


@contextmanager
def joined() -> Iterator[None]:
    """Train together with the other processes of ``torchrun``, if it started this one, inside this block."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    if torch.cuda.is_available():
        torch.cuda.set_device(own_device("cuda"))
    yield
    dist.destroy_process_group()


def world_size() -> int:
    """Count the processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_rank_zero() -> bool:
    """Tell whether this process is the one that decides and writes."""
    return world_size() == 1 or dist.get_rank() == 0


def own_device(wanted: str) -> str:
    """Return `wanted`, or the GPU of this process where each has one of its own."""
    if world_size() == 1 or wanted not in ("auto", "cuda") or not torch.cuda.is_available():
        return wanted
    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"


def shares(items: int) -> list[int]:
    """Divide a batch's items among the processes: consecutive ones, nearly the same number each."""
    ends = [items * i // world_size() for i in range(world_size() + 1)]
    return [end - start for start, end in itertools.pairwise(ends)]


def local_slice(items: int) -> slice:
    """Return where this process's items lie; one that has none takes the first, which `gather` leaves out."""
    if world_size() == 1:
        return slice(0, items)
    sizes, rank = shares(items), dist.get_rank()
    start = sum(sizes[:rank])
    return slice(start, start + sizes[rank]) if sizes[rank] else slice(0, 1)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.start, ctx.size = sum(sizes[: dist.get_rank()]), sizes[dist.get_rank()]
        ctx.given = len(part)
        same = part.new_zeros(max(sizes), *part.shape[1:])
        same[: ctx.size] = part[: ctx.size]
        parts = [torch.empty_like(same) for _ in sizes]
        with _all_there():
            dist.all_gather(parts, same)
        return torch.cat([held[:size] for held, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # all processes have the same gradients here
        own = gradients[0].new_zeros(ctx.given, *gradients[0].shape[1:])
        own[: ctx.size] = gradients[0][ctx.start : ctx.start + ctx.size] * world_size()
        return own, None


def gather(part: Tensor, sizes: Sequence[int]) -> Tensor:
    """Concatenate the parts (n_i, ...) of all processes; gradients flow back into each process's own.

    Every process has to compute the same from what comes out.

    Args:
        part: Of this process; what lies beyond its size is left out.
        sizes: n_i of every process.
    """
    if world_size() == 1:
        return part
    whole: Tensor = _Gathered.apply(part, sizes)
    return whole


def wrap_ddp(step: nn.Module) -> nn.Module:
    """Wrap `step`, in training mode, so that its gradients are averaged over the processes.

    Raises:
        SettingsError: it learns batch statistics, which would be of each process's share alone.
    """
    if world_size() == 1:
        return step
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training for part in step.modules()):
        raise SettingsError(
            "several processes cannot train batch normalisation together: keep the encoder's (freeze_norm, and weights"
            " other than random), or take an encoder without, e.g. mit_b1"
        )
    named = inspect.signature(DistributedDataParallel).parameters
    syncing = "forward_sync_buffers" if "forward_sync_buffers" in named else "broadcast_buffers"  # before PyTorch 2.13
    return DistributedDataParallel(step, find_unused_parameters=True, **{syncing: False})  # type: ignore[arg-type]


def on_rank_zero(compute: Callable[[], T]) -> T:
    """Call `compute` in the first process alone, and return or raise in all what it returns or raises.

    Raises:
        LpdError: in the others, where it raises in the first; another process has ended.
    """
    if world_size() == 1:
        return compute()
    held: list[Any] = [None, True]  # what it returns, and whether it raised instead
    try:
        if is_rank_zero():
            held = [compute(), False]
    finally:
        with _all_there():
            dist.broadcast_object_list(held, src=0, device=torch.device("cpu"))
    found, failed = held
    if failed:
        raise LpdError(
            f"process {dist.get_rank()} of {world_size()}: the first process has ended; its message says why"
        )
    return found  # type: ignore[no-any-return]


def agree_to_continue(wanted: bool = True) -> None:
    """Continue between two steps only if the first process does.

    Raises:
        KeyboardInterrupt: in the others, where it stops.
    """
    if not on_rank_zero(lambda: wanted) and not is_rank_zero():
        raise KeyboardInterrupt


@contextmanager
def _all_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what gloo and NCCL raise
        said = str(error).splitlines()[0]
        raise LpdError(
            f"process {dist.get_rank()} of {world_size()} lost the others ({said}): what the one that ended says is"
            " the reason; start again to resume from the last save"
        ) from error
