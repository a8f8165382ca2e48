"""A pretended graphics card: tensors on ``cuda:0`` have shapes, types and a device, and no values.

torch computes what operators give on a card from these alone, and refuses operands of several devices, as a card does.
CPU tensors keep their values, and operators on them alone are computed.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.optim import optimizer
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import napari_lpd

CARD = torch.device("cuda:0")
SOURCE = str(Path(napari_lpd.__file__).parent)
aten = torch.ops.aten


class PretendedCard(TorchDispatchMode):
    """Runs operators on pretended tensors, and notes where the CPU waits for the card.

    What the CPU reads is answered by ones, a single number with a fraction by 0 (no gradient overflowed), a search for
    what is true (``nonzero``, a mask as an index) by everything, and one for different values (``unique``) by all.

    Attributes:
        waits: (function of napari_lpd, what it waits for), in order: ``read``, a copy to the CPU; ``sent``, a copy
            from the CPU that is waited for; ``count``, a number of results that only the card knows; ``work``, all or
            a part of what the card was given to do.
    """

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self.fake = fake
        self.waits: list[tuple[str, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket is aten.to:  # in inference mode torch leaves the parts of an operator to us
            with self:
                return func.decompose(*args, **kwargs)
        values = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        pretended = [value for value in values if isinstance(value, FakeTensor)]
        wanted = kwargs.get("device")
        if not pretended and (wanted is None or torch.device(wanted).type == "cpu"):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if pretended and (answer := ANSWERS.get(func.overloadpacket)):
            return answer(self, func, args, kwargs)
        if func.overloadpacket is aten._to_copy and not pretended:
            return self._sent(args[0], kwargs.get("dtype"), wait=not kwargs.get("non_blocking"))
        with self.fake:
            return func(*args, **kwargs)

    def _sent(self, value: Tensor, dtype: torch.dtype | None = None, wait: bool = True) -> Tensor:
        if wait:
            self.note("sent")
        with self.fake:
            return torch.empty_like(value, dtype=dtype, device=CARD)

    def note(self, what: str) -> None:
        """Note a wait, with the function that asks for it."""
        frame: Any = sys._getframe(1)
        while frame and not frame.f_code.co_filename.startswith(SOURCE):
            frame = frame.f_back
        self.waits.append((frame.f_code.co_name if frame else "", what))

    def _copied(self, func: Any, args: Any, kwargs: Any) -> Any:
        wanted = kwargs.get("device")
        if wanted is None or torch.device(wanted).type != "cpu":
            with self.fake:
                return func(*args, **kwargs)
        if not kwargs.get("non_blocking"):
            self.note("read")
        with unset_fake_temporarily():
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)

    def _written(self, func: Any, args: Any, kwargs: Any) -> Any:
        to, value = args[:2]
        if not isinstance(to, FakeTensor):
            self.note("read")
            return to
        if not isinstance(value, FakeTensor):
            value = self._sent(value)
        with self.fake:
            return func(to, value, *args[2:], **kwargs)

    def _number(self, func: Any, args: Any, kwargs: Any) -> Any:
        self.note("read")
        return 0.0 if args[0].is_floating_point() else args[0].dtype == torch.bool or 1

    def _places(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        self.note("count")
        with self.fake:
            return torch.zeros(args[0].numel(), args[0].ndim, dtype=torch.int64, device=CARD)

    def _indexed(self, func: Any, args: Any, kwargs: Any) -> Any:
        indices: list[Tensor | None] = []
        for index in args[1]:
            if index is not None and not isinstance(index, FakeTensor):
                index = self._sent(index)
            if index is not None and index.dtype == torch.bool:
                indices += self._places(func, (index,), {}).unbind(1)
            else:
                indices.append(index)
        with self.fake:
            return func(args[0], indices, *args[2:], **kwargs)

    def _put(self, func: Any, args: Any, kwargs: Any) -> Any:
        if args[2].device.type == "cpu" and args[2].numel() == 1 and all(isinstance(i, FakeTensor) for i in args[1]):
            with self.fake:  # a number: torch fills without a look at the mask
                return func(*args, **kwargs)
        return self._indexed(func, args, kwargs)

    def _different(self, func: Any, args: Any, kwargs: Any) -> Any:
        self.note("count")
        with self.fake:
            found = args[0].new_empty(args[0].numel())
            return found, torch.zeros_like(args[0], dtype=torch.int64), torch.zeros_like(found, dtype=torch.int64)


ANSWERS: dict[Any, Callable[..., Any]] = {
    aten._to_copy: PretendedCard._copied,
    aten.copy_: PretendedCard._written,
    aten._local_scalar_dense: PretendedCard._number,
    aten.nonzero: PretendedCard._places,
    aten.index: PretendedCard._indexed,
    aten.index_put_: PretendedCard._put,
    aten._unique2: PretendedCard._different,
}


def on_card(value: Any, dtype: torch.dtype | None = None) -> Any:
    """Move tensors, in whatever they are held, to the pretended card; of a module, in place."""
    if not isinstance(value, nn.Module):
        return tree_map_only(Tensor, _moved, value)
    for module in value.modules():
        for name, part in module.named_parameters(recurse=False):
            module._parameters[name] = nn.Parameter(_moved(part, dtype), part.requires_grad)
        for name, part in module.named_buffers(recurse=False):
            module._buffers[name] = _moved(part, dtype)
    return value


def _moved(value: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    dtype = dtype if dtype and value.is_floating_point() else value.dtype
    return torch.empty_strided(value.shape, value.stride(), dtype=dtype, device=CARD)


def backward(loss: Tensor, *_: Any) -> None:
    """Do what `Tensor.backward` does, node by node: torch's own asks a card for its streams.

    Raises:
        AssertionError: a gradient is not where what it belongs to is.
    """
    waiting, seen, left = Counter[Any](), {loss.grad_fn}, [loss.grad_fn]
    while left:
        after = [node for node, _ in left.pop().next_functions if node]
        waiting.update(after)
        left += [node for node in dict.fromkeys(after) if node not in seen]
        seen.update(after)
    held: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {loss.output_nr: torch.ones_like(loss)}}
    ready = [loss.grad_fn]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            own = held.pop(node, {})
            if hasattr(node, "variable"):  # of a parameter
                if own:
                    node.variable.grad = own[0] if node.variable.grad is None else node.variable.grad + own[0]
                continue
            found = (node if callable(node) else node.apply)(*(own.get(i) for i in range(len(node._input_metadata))))
            found = found if isinstance(found, tuple) else (found,)
            for (after, i), gradient in zip(node.next_functions, found, strict=True):
                if after and gradient is not None:
                    about, slot = after._input_metadata[i], held.setdefault(after, {})
                    assert gradient.device == about.device, f"{node.name()} gives a gradient on {gradient.device}"
                    gradient = gradient.sum_to_size(about.shape).to(about.dtype)
                    slot[i] = slot[i] + gradient if i in slot else gradient
                waiting[after] -= 1
                if after and not waiting[after]:
                    ready.append(after)


@contextmanager
def pretended_card() -> Iterator[PretendedCard]:
    """Pretend that there is a card."""
    to = nn.Module.to

    def placed(part: nn.Module, *where: Any, **how: Any) -> nn.Module:
        device, dtype, *_ = torch._C._nn._parse_to(*where, **how)
        there = device == CARD or any(isinstance(weight, FakeTensor) for weight in part.parameters())
        return on_card(part, dtype) if there else to(part, *where, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "to", placed)
        patch.setattr(Tensor, "backward", backward)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        for module in (_foreach_utils, optimizer):  # all parameters at once, as on a card
            patch.setattr(module, "_foreach_supported_types", [Tensor, nn.Parameter, FakeTensor])
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        patch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
        patch.setattr(Tensor, "record_stream", lambda *_: None)
        patch.setattr(FakeTensor, "data_ptr", lambda _: 0)
        patch.setattr(FakeTensor, "tolist", lambda tensor: tensor.cpu().tolist())
        with FakeTensorMode(allow_non_fake_inputs=True) as fake, PretendedCard(fake) as card:
            waiting = SimpleNamespace(synchronize=lambda: card.note("work"), record=lambda: None)
            for name in ("current_stream", "default_stream", "Event"):
                patch.setattr(torch.cuda, name, lambda *_: waiting)
            yield card
