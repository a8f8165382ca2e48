"""The forward pass of prediction: a network made ready for its device, and tiles scored with it.

`ready_network` computes the same maps as the network itself, whatever way it takes: PyTorch with batch norms folded
into the convolutions and channels last, or ONNX Runtime (extra onnx) on a CPU.
"""

from __future__ import annotations

import copy
import io
import threading
import warnings
from collections import OrderedDict, deque
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.fusion import fuse_conv_bn_eval

from napari_lpd.core.errors import ModelError, SettingsError
from napari_lpd.models.cam import GATED_BY, minimum_maximum
from napari_lpd.models.network import LPD, STAGES_USED, LoadedModel, Supervised, choose_precision, output_stride

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_lpd.core.settings.training import Backend, EvaluateSettings, PredictSettings

    Ready = Callable[[Tensor], list[Tensor]]
    """(B, 3, H, W) RGB in 0..1 on the network's device → per stage (B, N, h_i, w_i) scaled cosines, float32."""

CPU_BATCH, GPU_BATCH = 1, 16
SIZES_KEPT = 4  # sessions of so many
DEVIATION = 1e-3  # of scaled cosines, which span about ±14; what was seen is 1e-5
ONNX_OPSET = 17
NORMS = {  # which batch norm follows which convolution in timm's EfficientNet blocks
    "DepthwiseSeparableConv": (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    "InvertedResidual": (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
    "EdgeResidual": (("conv_exp", "bn1"), ("conv_pwl", "bn2")),
    "EfficientNetFeatures": (("conv_stem", "bn1"),),
}

_ready: WeakKeyDictionary[nn.Module, tuple[list[Tensor], list[Any], dict[Any, Ready]]] = WeakKeyDictionary()
"""Of every network: its tensors, their states when the passes were made, and the passes."""

_opening = threading.Lock()  # torch exports from one thread at a time


def choose_backend(wanted: Backend, device: torch.device, precision: str = "float32") -> Literal["torch", "onnx"]:
    """What computes the maps: auto takes ONNX Runtime where it is installed and the device is the CPU.

    Raises:
        SettingsError: onnx is asked for and not installed, or with a device or precision that it does not serve here.
    """
    fits = device.type == "cpu" and precision in ("auto", "float32")
    installed = all(find_spec(name) for name in ("onnx", "onnxruntime"))
    if wanted != "onnx":
        return "onnx" if wanted == "auto" and fits and installed else "torch"
    if not installed:
        raise SettingsError("backend=onnx is not installed: pip install 'napari-lpd[onnx]', or backend=torch")
    if not fits:
        raise SettingsError(
            f"backend=onnx computes on the CPU in float32, not with device={device} and precision={precision};"
            " use backend=torch"
        )
    return "onnx"


def ready_network(
    model: LoadedModel, stages: Sequence[int], backend: Literal["torch", "onnx"], precision: torch.dtype | None = None
) -> Ready:
    """The network's forward pass for some stages (0-based), made ready once and kept as long as the network lives.

    Args:
        model: The model; where its weights were changed in place, the pass is made anew.
        stages: Stages of the maps.
        backend: As `choose_backend` gave it.
        precision: Number format of the encoder's arithmetic under torch; None is float32.
    """
    network, key = model.network, (tuple(stages), backend, precision)
    tensors, states, passes = _ready.get(network, ([], [], {}))
    if not tensors or states != _states(tensors):
        tensors, passes = [*network.parameters(), *network.buffers()], {}
        _ready[network] = (tensors, _states(tensors), passes)
    if key not in passes:
        with torch.inference_mode(False), torch.no_grad():
            kind = _Onnx if backend == "onnx" else _Torch
            passes[key] = kind(network, tuple(stages), model.device, precision)
    return passes[key]


def _states(tensors: Sequence[Tensor]) -> list[Any]:
    """What differs after a change in place."""
    return [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]


class _Torch:
    """A copy of a network for inference alone."""

    def __init__(
        self, network: LPD | Supervised, stages: tuple[int, ...], device: torch.device, precision: torch.dtype | None
    ) -> None:
        self._stages = stages
        self._format = torch.contiguous_format if device.type == "mps" else torch.channels_last
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        _fold_norms(self.network)
        self.network.to(memory_format=self._format)  # type: ignore[call-overload]
        self.network.encoder.precision = precision

    def __call__(self, images: Tensor) -> list[Tensor]:
        images = images.contiguous(memory_format=self._format)
        logits: list[Tensor] = self.network(images, self._stages).logits
        return logits


def _fold_norms(network: nn.Module) -> None:
    """Fold batch norms into the convolutions before them, in place; the norms' activations stay."""
    for module in list(network.modules()):
        for conv, norm in NORMS.get(type(module).__name__, ()):
            before, after = getattr(module, conv), getattr(module, norm)
            if isinstance(before, nn.Conv2d) and isinstance(after, BatchNormAct2d):
                setattr(module, conv, fuse_conv_bn_eval(before, after))
                setattr(module, norm, nn.Sequential(after.drop, after.act))


class _Onnx:
    """A network under ONNX Runtime: a session per size of image, on as many threads as torch has.

    The calling thread is one of them; the others are the session's. Threads that call at once would share those, so
    each takes a session of its own where there are any.
    """

    def __init__(self, *given: Any) -> None:
        self._torch = _Torch(*given)
        self._sessions: OrderedDict[tuple[int, ...], list[Any]] = OrderedDict()  # those that are free

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Image by image, which is fastest on a CPU."""
        with self._session(images[:1]) as session:
            found = [session.run(None, {"images": image.numpy()}) for image in images.contiguous().split(1)]
        return [torch.from_numpy(np.concatenate(maps)) for maps in zip(*found, strict=True)]

    @contextmanager
    def _session(self, image: Tensor) -> Iterator[Any]:
        """A session for images of this size; a new one is checked on the image.

        Raises:
            ModelError: the encoder cannot be exported, or its maps are not the same.
        """
        threads = torch.get_num_threads()
        key = (*image.shape[2:], threads)
        with _opening:
            free = self._sessions.setdefault(key, [])
            self._sessions.move_to_end(key)
            if len(self._sessions) > SIZES_KEPT:
                self._sessions.popitem(last=False)
            session = free.pop() if free else self._checked(image)
            if threads == 1:
                free.append(session)
        try:
            yield session
        finally:
            if threads > 1:
                free.append(session)

    def _checked(self, image: Tensor) -> Any:
        session, found = self._opened(image.clone())
        expected = self._torch(image)
        most = max(float((torch.from_numpy(f) - e).abs().max()) for f, e in zip(found, expected, strict=True))
        if not most <= DEVIATION:
            raise ModelError(f"ONNX Runtime's maps differ from PyTorch's by {most:.2g}; use backend=torch")
        return session

    def _opened(self, image: Tensor) -> tuple[Any, list[NDArray[np.float32]]]:
        """A new session, and what it gives for the image."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves cores to reading and blending
        options.log_severity_level = 3
        graph = io.BytesIO()
        try:
            with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
                warnings.simplefilter("ignore")  # sizes become constants, as they shall; the exporter is to be replaced
                how = {"input_names": ["images"], "opset_version": ONNX_OPSET, "dynamo": False}
                maps = _Maps(self._torch).eval()  # the exporter gives all of it back the mode that it found
                torch.onnx.export(maps, (image,), graph, **how)  # type: ignore[arg-type]
            session = onnxruntime.InferenceSession(graph.getvalue(), options, providers=["CPUExecutionProvider"])
            return session, session.run(None, {"images": image.numpy()})
        except Exception as error:  # exporter and runtime raise many kinds here
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelError(f"the network cannot run under ONNX Runtime ({reason}); use backend=torch") from error


class _Maps(nn.Module):
    """A forward pass as a module, which is what can be exported."""

    def __init__(self, computed: _Torch) -> None:
        super().__init__()
        self.network, self._computed = computed.network, computed

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._computed(images))


def stages_needed(model: LoadedModel) -> list[int]:
    """Which of the used stages take part: those that are fused and those that gate."""
    fused = model.network.settings.stage_fusion
    return [i for i in range(len(STAGES_USED)) if fused[i] or i in GATED_BY]


def forward_pass(model: LoadedModel, settings: PredictSettings | EvaluateSettings) -> Ready:
    """The forward pass for the stages that are needed, with the backend and in the precision that are set."""
    return ready_network(
        model,
        [STAGES_USED[i] for i in stages_needed(model)],
        choose_backend(settings.backend, model.device, settings.precision),
        choose_precision(settings.precision, model.device),
    )


class TileScorer:
    """A model that is ready to score tiles under given settings.

    Attributes:
        batch: Most tiles per forward pass. Where the device's memory does not suffice it is halved, and at last threads
            take turns; `warnings` says so, and the maps are the same.
    """

    def __init__(self, model: LoadedModel, settings: PredictSettings) -> None:
        self.model, self.settings = model, settings
        self.batch = settings.batch or (CPU_BATCH if model.device.type == "cpu" else GPU_BATCH)
        self._ready = forward_pass(model, settings)
        self._said: deque[str] = deque()
        self._free, self._at_work, self._in_turns = threading.Condition(), 0, False

    def warnings(self) -> list[str]:
        """What is to be said since this was last asked."""
        return [self._said.popleft() for _ in range(len(self._said))]  # threads may be adding to it

    @torch.inference_mode()
    def __call__(self, tiles: NDArray[np.uint8]) -> Tensor:
        """Scaled cosines of tiles (B, h, w, 3): (B, S·N, h / stride, w / stride) on the model's device, stage by stage.

        Raises:
            ModelError: the device's memory does not suffice for one tile, or ONNX Runtime cannot take the network.
        """
        found: list[Tensor] = []
        first = 0
        while first < len(tiles):
            part = tiles[first : first + self.batch]
            try:
                with self._turn() as alone:
                    found.append(self._scored(part))
                first += len(part)
            except torch.OutOfMemoryError as error:
                self._take_fewer(part, alone, error)
        maps = torch.cat(found)
        if maps.is_cuda:  # of this thread's stream, to be used on the default one
            torch.cuda.current_stream(maps.device).synchronize()
            maps.record_stream(torch.cuda.default_stream(maps.device))
        return maps

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Score inside this block; gives whether no other thread does so meanwhile."""
        with self._free:
            self._free.wait_for(lambda: not (self._in_turns and self._at_work))
            self._at_work += 1
            alone = self._in_turns
        try:
            yield alone
        finally:
            with self._free:
                self._at_work -= 1
                self._free.notify_all()

    def _take_fewer(self, tiles: NDArray[np.uint8], alone: bool, error: torch.OutOfMemoryError) -> None:
        """Halve the batch after these tiles were too many; a single one is scored without another beside it."""
        device = self.model.device
        if len(tiles) == 1 and not alone:
            with self._free:
                if not self._in_turns:
                    self._said.append(f"{device}: not enough memory for tiles side by side; in turns from now on")
                self._in_turns = True
            return
        if len(tiles) == 1:
            raise ModelError(
                f"{device}: not enough memory for one tile of {tiles.shape[1]} pixels;"
                " use a smaller tile=, or device=cpu"
            ) from error
        self.batch = min(self.batch, len(tiles) // 2)  # another thread may have been here, too
        self._said.append(f"{device}: not enough memory for {len(tiles)} tiles at once; {self.batch} from now on")
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def _scored(self, tiles: NDArray[np.uint8]) -> Tensor:
        device, network = self.model.device, self.model.network
        pixels = torch.from_numpy(tiles)
        if device.type == "cuda":
            pixels = pixels.pin_memory()
        images = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
        maps = self._stacked_maps(images)
        if self.settings.flips:
            maps = (maps + self._stacked_maps(images.flip(3)).flip(3)) / 2
        if self.settings.normalise == "benchmark":
            stages = maps.unflatten(1, (-1, network.prototype_count))
            maps = torch.stack([torch.cat([minimum_maximum(m, network.k) for m in tile]) for tile in stages])
        return maps

    def _stacked_maps(self, images: Tensor) -> Tensor:
        size = [n // output_stride(self.model.network) for n in images.shape[2:]]
        fine = [interpolate(maps, size=size, mode="bilinear", align_corners=False) for maps in self._ready(images)]
        return torch.cat(fine, dim=1)
