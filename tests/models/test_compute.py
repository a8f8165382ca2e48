from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from napari_lpd import samples
from napari_lpd.cli.main import main
from napari_lpd.core.errors import ModelError, SettingsError
from napari_lpd.core.jobs import WARNING
from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.settings.training import ModelSettings
from napari_lpd.evaluation.masks import class_probability, fused_maps
from napari_lpd.models import compute as inference
from napari_lpd.models.checkpoint import load_model
from napari_lpd.models.compute import choose_backend, compiled_forward
from napari_lpd.models.network import STAGES_USED, new_network
from napari_lpd.prediction.predict import predict_slide, prediction_card
from napari_lpd.prediction.tile_scorer import TileScorer
from napari_lpd.slides.slide import Slide

CPU = torch.device("cpu")
has_onnx = pytest.mark.skipif(
    choose_backend("auto", CPU) != "onnx", reason="needs the extra onnx, which the extra dev brings"
)


@pytest.fixture(scope="module")
def model():
    return load_model(samples.model_path(), "cpu")


@pytest.fixture(scope="module")
def mit(model):
    torch.manual_seed(0)
    settings = ModelSettings(encoder="mit_b0", encoder_weights="random", prototype_dim=32, stage_fusion=(0.3, 0.3, 0.4))
    network = new_network(settings, 4).eval().requires_grad_(False)
    return model._replace(network=network)


def tiles_of(slide, size=(128, 160)):
    return np.stack([slide.read(place, size, 0.998) for place in ((600, 700), (1500, 1500), (2300, 900))])


def images_of(tiles):
    return torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("backend", ["torch", pytest.param("onnx", marks=has_onnx)])
@pytest.mark.parametrize("name", ["model", "mit"])
@pytest.mark.parametrize("size", [(128, 160), (97, 131)])
def test_a_network_made_ready_gives_the_network_s_own_maps(request, skin, backend, name, size):
    model, images = request.getfixturevalue(name), images_of(tiles_of(skin, size))
    with torch.inference_mode():
        expected = model.network(images, STAGES_USED).logits
        found = compiled_forward(model, STAGES_USED, backend)(images)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() < 1e-4


@has_onnx
@pytest.mark.parametrize("rules", [{}, {"normalise": "image", "background": "predict", "views": "flips"}])
def test_onnx_runtime_gives_the_same_masks(skin, model, rules):
    labels = {}
    for backend in ("torch", "onnx"):
        settings, found = EvaluateSettings(backend=backend, **rules), []
        for image in images_of(tiles_of(skin, (224, 224))):
            fused, presence = fused_maps(model, image, settings)
            found.append(class_probability(fused, presence >= torch.tensor(model.card.presence), settings).argmax(0))
        labels[backend] = torch.stack(found)
    assert len(labels["torch"].unique()) > 1
    assert (labels["torch"] == labels["onnx"]).float().mean() >= 0.999


@has_onnx
def test_a_runtime_whose_maps_differ_is_refused(monkeypatch, skin, model):
    fresh = model._replace(network=new_network(model.network.settings, 4, "random").eval())
    opened = inference._Onnx._opened

    def wrong(self, image):
        session, found = opened(self, image)
        return session, [maps + 0.01 for maps in found]

    monkeypatch.setattr(inference._Onnx, "_opened", wrong)
    refused = pytest.raises(ModelError, match=r"maps differ from PyTorch's by 0\.01; use backend=torch")
    with refused, torch.inference_mode():
        compiled_forward(fresh, STAGES_USED, "onnx")(images_of(tiles_of(skin)))


@has_onnx
@pytest.mark.parametrize(("threads", "sessions"), [(1, 1), (2, 2)])
def test_two_threads_at_once_compute_on_threads_of_their_own(monkeypatch, skin, model, threads, sessions):
    """A session's threads are shared by all that run it; where it has none but the caller's, one is enough."""
    fresh = model._replace(network=new_network(model.network.settings, 4, "random").eval())
    ready, images, opened = compiled_forward(fresh, STAGES_USED, "onnx"), images_of(tiles_of(skin)), []
    real, both = inference._Onnx._opened, threading.Barrier(2, timeout=20)

    class Meeting:
        def __init__(self, session):
            self.session = session

        def run(self, *given):
            both.wait()
            return self.session.run(*given)

    def opening(self, image):
        session, found = real(self, image)
        opened.append(session.get_session_options().intra_op_num_threads)
        return Meeting(session), found

    monkeypatch.setattr(inference._Onnx, "_opened", opening)

    def score(_):
        torch.set_num_threads(threads)
        return [ready(images) for _ in range(2)][1]

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(score, range(2))
    assert opened == [threads] * sessions
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@has_onnx
def test_a_network_that_cannot_be_exported_is_refused_in_one_line(model):
    class Odd(type(model.network)):
        def forward(self, images, stages):
            return super().forward(images * torch.linalg.svdvals(images)[..., None, :], stages)

    odd = model._replace(network=Odd(model.network.settings, 4, model.network.encoder).eval())
    with pytest.raises(ModelError, match="cannot run under ONNX Runtime") as caught, torch.inference_mode():
        compiled_forward(odd, STAGES_USED, "onnx")(torch.rand(1, 3, 64, 64))
    assert "\n" not in str(caught.value)
    assert "backend=torch" in str(caught.value)


def test_a_network_that_was_changed_is_made_ready_anew(skin, mit):
    images = images_of(tiles_of(skin))
    with torch.inference_mode():
        before = compiled_forward(mit, STAGES_USED, "torch")(images)[2]
    assert compiled_forward(mit, STAGES_USED, "torch") is compiled_forward(mit, STAGES_USED, "torch")
    mit.network.fill_bank(torch.randn(mit.network.prototypes.shape))
    with torch.inference_mode():
        after, own = compiled_forward(mit, STAGES_USED, "torch")(images)[2], mit.network(images, (3,)).logits[0]
    assert (after - before).abs().max() > 0.1
    assert (after - own).abs().max() < 1e-4


def test_the_network_itself_stays_as_it_was(skin, model):
    state = {name: value.clone() for name, value in model.network.state_dict().items()}
    with torch.inference_mode():
        compiled_forward(model, STAGES_USED, "torch", torch.bfloat16)(images_of(tiles_of(skin)))
    assert model.network.encoder.precision is None
    assert all(torch.equal(value, state[name]) for name, value in model.network.state_dict().items())


def test_half_precision_is_close(skin, model):
    images = images_of(tiles_of(skin, (64, 64)))
    with torch.inference_mode():
        half = compiled_forward(model, STAGES_USED, "torch", torch.bfloat16)(images)[2]
        full = compiled_forward(model, STAGES_USED, "torch")(images)[2]
    assert half.dtype == torch.float32
    assert 1e-4 < (half - full).abs().max() < 0.1 * full.abs().max()


def test_without_the_extra_onnx_says_what_to_install(monkeypatch):
    monkeypatch.setattr(inference, "find_spec", lambda name: None)
    assert choose_backend("auto", CPU) == choose_backend("torch", CPU) == "torch"
    with pytest.raises(SettingsError, match=r"pip install 'napari-lpd\[onnx\]', or backend=torch"):
        choose_backend("onnx", CPU)


def test_the_command_line_says_so_in_one_line(monkeypatch, tiny_tiff, tmp_path, capsys):
    monkeypatch.setattr(inference, "find_spec", lambda name: None)
    assert main(["predict", str(tiny_tiff), "--set", "backend=onnx", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].endswith("pip install 'napari-lpd[onnx]', or backend=torch")


def test_onnx_serves_the_cpu_in_float32_only(monkeypatch):
    monkeypatch.setattr(inference, "find_spec", lambda name: name)
    assert choose_backend("auto", CPU) == choose_backend("onnx", CPU) == "onnx"
    assert choose_backend("auto", torch.device("cuda")) == choose_backend("auto", CPU, "bfloat16") == "torch"
    for device, precision in ((torch.device("cuda"), "auto"), (CPU, "bfloat16")):
        with pytest.raises(SettingsError, match="use backend=torch"):
            choose_backend("onnx", device, precision)


def test_the_card_says_what_computed_the_maps(monkeypatch, skin, model):
    cards = [prediction_card(skin, model, PredictSettings(backend=backend)) for backend in ("auto", "torch")]
    assert cards[0].settings.backend == choose_backend("auto", CPU)
    assert cards[1].settings.backend == "torch" and cards[1].settings.precision == "float32"
    assert cards[0].difference(cards[1]) == "" and cards[0].digest == cards[1].digest
    assert "precision" in cards[0].difference(prediction_card(skin, model, PredictSettings(precision="bfloat16")))


class Scarce:
    """A forward pass on a device whose memory holds only so many images."""

    most = 2

    def __init__(self, ready):
        self.ready, self.given = ready, []

    def __call__(self, images):
        self.given.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.ready(images)


@pytest.fixture
def scarce(monkeypatch):
    """Make every forward pass a `Scarce` one; gives those that were made."""
    made, ready = [], inference.compiled_forward

    def limited(*given):
        made.append(Scarce(ready(*given)))
        return made[-1]

    monkeypatch.setattr(inference, "compiled_forward", limited)
    return made


@pytest.mark.parametrize("flips", [False, True])
def test_where_memory_is_scarce_fewer_tiles_are_scored_at_once_and_it_is_said(scarce, skin, model, flips):
    tiles = np.concatenate([tiles_of(skin, (64, 64))] * 3)[:7]
    scorer = TileScorer(model, PredictSettings(batch=7, flips=flips, backend="torch"))
    found = scorer(tiles)
    assert scarce[0].given[:3] == [7, 3, 1] and max(scarce[0].given[3:]) == scorer.batch == 1
    assert [said.partition(": ")[2] for said in scorer.warnings()] == [
        "not enough memory for 7 tiles at once; 3 from now on",
        "not enough memory for 3 tiles at once; 1 from now on",
    ]
    assert scorer.warnings() == []
    with torch.inference_mode():
        single = torch.cat([scorer(tile[None]) for tile in tiles])
    assert torch.equal(found, single)


def test_one_tile_that_does_not_fit_is_an_error_of_one_line(scarce, skin, model):
    scorer = TileScorer(model, PredictSettings(backend="torch"))
    scarce[0].most = 0
    with pytest.raises(ModelError, match="not enough memory for one tile of 64 pixels; use a smaller tile="):
        scorer(tiles_of(skin, (64, 64)))


def test_a_gpu_without_room_for_one_tile_is_left_for_the_cpu_and_that_is_said(scarce, skin, model):
    tiles, elsewhere = tiles_of(skin, (64, 64)), torch.device("meta")
    settings = PredictSettings(batch=3, backend="torch", precision="bfloat16")
    scorer = TileScorer(model._replace(device=elsewhere), settings)
    scarce[0].most = 0
    found = scorer(tiles)
    assert scarce[0].given == [3, 1, 1]
    assert (scorer.device, found.device) == (CPU, CPU)
    assert [said.partition(": ")[2] for said in scorer.warnings()] == [
        "not enough memory for 3 tiles at once; 1 from now on",
        "not enough memory for tiles side by side; in turns from now on",
        "not enough memory for one tile; computed on the CPU from now on",
    ]
    expected = TileScorer(model, settings.model_copy(update={"batch": 1, "precision": "float32"}))(tiles)
    assert torch.equal(found, expected)  # a CPU may have no half precision


class Crowded(Scarce):
    """A forward pass on a device whose memory does not suffice for two of them at a time."""

    def __init__(self, ready):
        super().__init__(ready)
        self.turn, self.two, self.inside, self.most_inside = threading.Lock(), threading.Event(), 0, []

    def __call__(self, images):
        with self.turn:
            self.inside += 1
            inside = self.inside
            self.most_inside.append(inside)
        try:
            if inside > 1:
                self.two.set()
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            self.two.wait(20)  # once they have met, nobody waits
            return super().__call__(images)
        finally:
            with self.turn:
                self.inside -= 1


def test_where_two_tiles_do_not_fit_side_by_side_they_are_scored_one_by_one(monkeypatch, skin, model):
    made, ready = [], inference.compiled_forward
    monkeypatch.setattr(inference, "compiled_forward", lambda *given: made.append(Crowded(ready(*given))) or made[-1])
    tiles, scorer = tiles_of(skin, (64, 64)), TileScorer(model, PredictSettings(backend="torch"))
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(scorer, (tiles, tiles)))
    with torch.inference_mode():
        expected = torch.cat([scorer(tile[None]) for tile in tiles])
    assert all(torch.equal(maps, expected) for maps in both)
    assert sorted(made[0].most_inside) == [1] * 9 + [2]
    assert scorer.warnings() == ["cpu: not enough memory for tiles side by side; in turns from now on"]


def test_a_slide_is_predicted_with_smaller_batches_and_the_same_result(monkeypatch, scarce, skin, model, tmp_path):
    monkeypatch.setattr(Scarce, "most", 4)
    slide = Slide.from_levels([skin.read((600, 700), (200, 200), 0.998)], (0.998, 0.998), "crop")
    settings = PredictSettings(tile=64, overlap=16, block=64, tissue_only=False, backend="torch")
    found = {}
    for batch in (1, 5):
        job = predict_slide(slide, model, settings.model_copy(update={"batch": batch}), tmp_path / f"{batch}.zarr")
        said = []
        try:
            while True:
                said.append(next(job).message)
        except StopIteration as finished:
            found[batch] = np.asarray(finished.value.labels.levels[0])
        assert sum(WARNING in message and "not enough memory" in message for message in said) == (batch > 4)
    assert np.array_equal(found[1], found[5])
