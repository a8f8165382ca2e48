"""The forward pass of prediction, prepared for its device.

`compiled_forward` computes the same maps as the network itself: in PyTorch with batch norms folded into convolutions
and channels last, or in ONNX Runtime (extra onnx) on a CPU.
"""

from __future__ import annotations

import copy
import io
import threading
import warnings
from collections import OrderedDict
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.data import DataLoader, Dataset

from napari_lpd.core.errors import ModelError, SettingsError
from napari_lpd.models.backbones.library import timm
from napari_lpd.models.network import STAGES_USED, LoadedModel, used_stages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_lpd.core.settings.evaluation import EvaluateSettings
    from napari_lpd.core.settings.prediction import Backend, PredictSettings
    from napari_lpd.data.tileset import TileSet

    ForwardPass = Callable[[Tensor], list[Tensor]]

CPU_BATCH, GPU_BATCH = 1, 16
SIZES_KEPT = 4  # sizes of images with cached sessions
DEVIATION = 1e-3  # of scaled cosines; 1e-5 is usual
SPAN = 14.0  # about what these span; larger values, as features, may differ by as much of their span
ONNX_OPSET = 18
NORMS = {  # which batch norm follows which convolution in timm's EfficientNet blocks
    "DepthwiseSeparableConv": (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    "InvertedResidual": (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
    "EdgeResidual": (("conv_exp", "bn1"), ("conv_pwl", "bn2")),
    "EfficientNetFeatures": (("conv_stem", "bn1"),),
}
_ready: WeakKeyDictionary[nn.Module, tuple[list[Tensor], list[Any], dict[Any, ForwardPass]]] = WeakKeyDictionary()
"""Per network: its tensors, their states when the passes were made, and the passes."""

_opening = threading.Lock()  # torch exports from one thread at a time


def choose_backend(backend: Backend, device: torch.device, precision: str = "float32") -> Literal["torch", "onnx"]:
    """Choose what computes the maps: auto is ONNX Runtime where it is installed and the device is the CPU.

    Raises:
        SettingsError: onnx is chosen and not installed, or does not support the device or precision here.
    """
    fits = device.type == "cpu" and precision in ("auto", "float32")
    installed = all(find_spec(name) for name in ("onnx", "onnxruntime"))
    if backend != "onnx":
        return "onnx" if backend == "auto" and fits and installed else "torch"
    if not installed:
        raise SettingsError("backend=onnx is not installed: pip install 'napari-lpd[onnx]', or backend=torch")
    if not fits:
        raise SettingsError(
            f"backend=onnx computes on the CPU in float32, not with device={device} and precision={precision};"
            " use backend=torch"
        )
    return "onnx"


def compiled_forward(
    model: LoadedModel, stages: Sequence[int], backend: Literal["torch", "onnx"], precision: torch.dtype | None = None
) -> ForwardPass:
    """Return the forward pass for some stages (0-based), prepared once and cached while the network lives.

    Args:
        model: The model; after a change of its weights in place, the pass is prepared anew.
        stages: Stages of the maps.
        backend: The result of `choose_backend`.
        precision: Number format of the encoder's arithmetic under torch; None is float32.
    """
    network, key = model.network, (tuple(stages), backend, precision)
    tensors, states, passes = _ready.get(network, ([], [], {}))
    if not tensors or states != _states(tensors):
        tensors, passes = [*network.parameters(), *network.buffers()], {}
        _ready[network] = (tensors, _states(tensors), passes)
    if key not in passes:
        passes[key] = prepared(network, tuple(stages), model.device, backend, precision)
    return passes[key]


def prepared(
    network: nn.Module,
    stages: tuple[int, ...],
    device: torch.device,
    backend: Literal["torch", "onnx"],
    precision: torch.dtype | None,
) -> ForwardPass:
    """Prepare the forward pass of a network, with an `encoder`, whose result has `outputs`."""
    with torch.inference_mode(False), torch.no_grad():
        return (_Onnx if backend == "onnx" else _Torch)(network, stages, device, precision)


def _states(tensors: Sequence[Tensor]) -> list[Any]:
    """Return values that differ after a change in place."""
    return [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]


class _Torch:
    """Copy of a network for inference alone."""

    def __init__(
        self, network: nn.Module, stages: tuple[int, ...], device: torch.device, precision: torch.dtype | None
    ) -> None:
        self._stages = stages
        self._format = torch.contiguous_format if device.type == "mps" else torch.channels_last
        self.network = cast("Any", copy.deepcopy(network).eval().requires_grad_(False))
        _fold_norms(self.network)
        self.network.to(memory_format=self._format)
        self.network.encoder.precision = precision

    def __call__(self, images: Tensor) -> list[Tensor]:
        images = images.contiguous(memory_format=self._format)
        outputs: list[Tensor] = self.network(images, self._stages).outputs
        return outputs


def _fold_norms(network: nn.Module) -> None:
    """Fold batch norms into the convolutions before them, in place; the norms' activations stay."""
    for module in list(network.modules()):
        for conv, norm in NORMS.get(type(module).__name__, ()):
            before, after = getattr(module, conv), getattr(module, norm)
            if isinstance(before, nn.Conv2d) and isinstance(after, timm.layers.BatchNormAct2d):
                setattr(module, conv, fuse_conv_bn_eval(before, after))
                setattr(module, norm, nn.Sequential(after.drop, after.act))


class _Onnx:
    """Network under ONNX Runtime: a session per size of image, on as many threads as torch has.

    The calling thread is one of them; the others are the session's. Threads that call at once would share those, so
    each uses a session of its own if there are any.
    """

    def __init__(self, *arguments: Any) -> None:
        self._torch = _Torch(*arguments)
        self._sessions: OrderedDict[tuple[int, ...], list[Any]] = OrderedDict()  # idle ones

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Compute the maps image by image, which is fastest on a CPU."""
        with self._session(images[:1]) as session:
            outputs = [session.run(None, {"images": image.numpy()}) for image in images.contiguous().split(1)]
        return [torch.from_numpy(np.concatenate(maps)) for maps in zip(*outputs, strict=True)]

    @contextmanager
    def _session(self, image: Tensor) -> Iterator[Any]:
        """Yield a session for images of this size; a new one is checked on the image.

        Raises:
            ModelError: the encoder cannot be exported, or its maps differ.
        """
        threads = torch.get_num_threads()
        key = (*image.shape[2:], threads)
        with _opening:
            idle = self._sessions.setdefault(key, [])
            self._sessions.move_to_end(key)
            if len(self._sessions) > SIZES_KEPT:
                self._sessions.popitem(last=False)
            session = idle.pop() if idle else self._checked(image)
            if threads == 1:
                idle.append(session)
        try:
            yield session
        finally:
            if threads > 1:
                idle.append(session)

    def _checked(self, image: Tensor) -> Any:
        session, maps = self._opened(image.clone())
        expected = self._torch(image)
        pairs = [(torch.from_numpy(f), e) for f, e in zip(maps, expected, strict=True)]
        deviation = max(float((f - e).abs().max() / max(float(e.abs().max()) / SPAN, 1)) for f, e in pairs)
        if not deviation <= DEVIATION:
            raise ModelError(f"ONNX Runtime's maps differ from PyTorch's by {deviation:.2g}; use backend=torch")
        return session

    def _opened(self, image: Tensor) -> tuple[Any, list[NDArray[np.float32]]]:
        """Return a new session, and its maps of the image."""
        import onnxruntime
        from torch.onnx.utils import register_custom_op_symbolic

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves cores to reading and blending
        options.log_severity_level = 3
        graph = io.BytesIO()
        try:
            with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
                warnings.simplefilter("ignore")  # sizes become constants, as intended; the exporter is deprecated
                # The new exporter (dynamo) takes 2 to 3 s of processor time, not 0.3 s, per size of tile, for a graph
                # that is no faster, and needs a package more (onnxscript). torch 2.14 still has the old one.
                how = {"input_names": ["images"], "opset_version": ONNX_OPSET, "dynamo": False}
                register_custom_op_symbolic("aten::_upsample_bicubic2d_aa", _resized, ONNX_OPSET)
                maps = _Maps(self._torch).eval()  # the exporter restores the mode of the module
                torch.onnx.export(maps, (image,), graph, **how)  # type: ignore[arg-type]
            session = onnxruntime.InferenceSession(graph.getvalue(), options, providers=["CPUExecutionProvider"])
            return session, session.run(None, {"images": image.numpy()})
        except Exception as error:  # exporter and runtime raise many kinds here
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelError(f"the network cannot run under ONNX Runtime ({reason}); use backend=torch") from error


def _resized(graph: Any, images: Any, size: Any, *_: Any) -> Any:
    """Write a bicubic resizing with antialiasing, as of a ViT's position embeddings, for ONNX; torch itself cannot."""
    none = graph.op("Constant", value_t=torch.tensor([]))
    kept = graph.op("Constant", value_t=torch.tensor(images.type().sizes()[:2]))
    how = {"mode_s": "cubic", "cubic_coeff_a_f": -0.5, "antialias_i": 1, "exclude_outside_i": 1}
    return graph.op("Resize", images, none, none, graph.op("Concat", kept, size, axis_i=0), **how)


class _Maps(nn.Module):
    """Forward pass as a module, for the exporter."""

    def __init__(self, computed: _Torch) -> None:
        super().__init__()
        self.network, self._computed = computed.network, computed

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._computed(images))


def forward_pass(model: LoadedModel, settings: PredictSettings | EvaluateSettings) -> ForwardPass:
    """Return the forward pass for the required stages, with the backend and precision of `settings`."""
    return compiled_forward(
        model,
        [STAGES_USED[i] for i in used_stages(model.network)],
        choose_backend(settings.backend, model.device, settings.precision),
        choose_precision(settings.precision, model.device),
    )


def choose_device(name: str) -> tuple[torch.device, str]:
    """Choose the device to compute on, and tell the reason in a few words.

    Raises:
        SettingsError: the device is unknown or absent.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        if cuda:
            return torch.device("cuda"), f"{torch.cuda.get_device_name()} found"
        if mps:
            return torch.device("mps"), "Apple GPU found"
        return torch.device("cpu"), "no GPU found"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"device={name!r}: wanted auto, cpu, cuda, cuda:N or mps") from error
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(mps)}
    if (device.index or 0) >= counts.get(device.type, 0):
        why = " (napari-lpd doctor says why)" if device.type == "cuda" and not cuda else ""
        raise SettingsError(f"device={name!r} is not available on this machine{why}; use cpu or auto")
    return device, "requested"


def choose_precision(wanted: str, device: torch.device) -> torch.dtype | None:
    """Choose the number format of the encoders' arithmetic; None is float32, without autocast.

    auto is bfloat16 on NVIDIA cards that have it, float16 on older ones, float32 elsewhere.

    Raises:
        SettingsError: float16 off CUDA, where the loss cannot be scaled.
    """
    cuda = device.type == "cuda"
    if wanted == "auto":
        wanted = ("bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16") if cuda else ""
    if wanted == "float16" and not cuda:
        raise SettingsError(f"precision=float16 needs an NVIDIA card, and the device is {device}; use auto or bfloat16")
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(wanted)


def load_batches(tiles: TileSet, **options: Any) -> DataLoader[tuple[Tensor, Tensor]]:
    """Load tiles in batches of images (B, 3, H, W) uint8 and labels (B, C); options are those of `DataLoader`."""
    return DataLoader(cast("Dataset[tuple[Tensor, Tensor]]", tiles), **options)
