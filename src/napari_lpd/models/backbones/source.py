"""Where an encoder comes from: which network timm builds for a name, and what its input looks like, and who says so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_lpd.core.errors import ModelError, SettingsError, one_line
from napari_lpd.core.reading import read_json
from napari_lpd.models.backbones.known import PUBLISHED, published
from napari_lpd.models.backbones.library import timm
from napari_lpd.models.card import Architecture

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_lpd.models.backbones.known import Three
    from napari_lpd.models.card import Value

MIT = {"mit_b0": "pvt_v2_b0", "mit_b1": "pvt_v2_b1", "mit_b2": "pvt_v2_b2"}
_MIT_ARGUMENTS: dict[str, Value] = {"mlp_ratios": (4, 4, 4, 4)}
TISSUE_MEAN = (0.70623304, 0.47791372, 0.66791496)  # RGB; method.md §6
TISSUE_STD = (0.19820057, 0.22564577, 0.1736589)
NAMED = ("random", "embedded", "hub")  # weights that are no file
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"  # beside weights: timm's, transformers'
OURS = ("dynamic_img_size", "dynamic_img_pad", "global_pool")  # arguments that we choose
GIVE = "set input_mean and input_std"


class Given(NamedTuple):
    """What settings say of an encoder beside its name.

    Attributes:
        arguments: Of timm's constructor.
        blocks: The four blocks, 0-based, whose tokens are the maps of a ViT; empty: evenly spaced.
        mean: Of the input, RGB in 0..1; empty: as the weights' source says.
        std: Its deviation.
    """

    arguments: Mapping[str, Any] = {}
    blocks: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


NOTHING_GIVEN = Given()


class _Said(NamedTuple):
    """A network, with what its source says of its input, or why that is not known."""

    name: str
    arguments: Mapping[str, Any]
    statistics: tuple[Three, Three] | None
    source: str


def architecture_of(name: str, weights: str, given: Given, tissue: bool = False) -> Architecture:
    """Describe the network of `name`, and its input; `arguments` may still be completed from a file of weights.

    Args:
        name: A published encoder (`PUBLISHED`), timm's name, ``mit_b0``..``mit_b2``, ``hf-hub:`` or ``local-dir:``.
        weights: ``random``, ``embedded``, ``hub``, or a file.
        given: What the settings say.
        tissue: Take the statistics of H&E tissue.

    Raises:
        ModelError: no such network, or nothing says what its input is to look like.
    """
    said = _said(name, weights)
    arguments = {key: value for key, value in {**said.arguments, **given.arguments}.items() if key not in OURS}
    if tissue:
        said = said._replace(statistics=(TISSUE_MEAN, TISSUE_STD), source="H&E tissue")
    elif given.mean:
        said = said._replace(statistics=_three(given.mean, given.std), source="settings")
    if said.statistics is None:
        raise ModelError(f"encoder {name!r}: {said.source}; {GIVE}")
    try:
        return Architecture.build(
            {
                "name": said.name,
                "arguments": {key: tuple(v) if isinstance(v, list) else v for key, v in arguments.items()},
                "mean": said.statistics[0],
                "std": said.statistics[1],
                "source": said.source,
                "blocks": given.blocks,
            }
        )
    except SettingsError as error:
        raise ModelError(f"encoder {name!r}: its architecture cannot be stored in a model ({error})") from error


def _three(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Three, Three]:
    (a, b, c), (d, e, f) = mean, std
    return (a, b, c), (d, e, f)


def _said(name: str, weights: str) -> _Said:
    """Ask the sources in turn: our table, the hub's or a folder's configuration, files beside the weights, timm."""
    if found := published(name):
        known, row = found
        return _Said(row.name, row.arguments, row.statistics, f"published: {known}; licence: {row.licence}")
    if ":" in name:
        return _configured(name)
    network, tag = timm.models.split_model_name_tag(MIT.get(name, name))
    if not timm.is_model(network):
        raise ModelError(
            f"encoder {name!r}: timm knows no such network, and no published one is called so"
            " (docs/reference/encoders.md)"
        )
    if tag and name not in timm.models.list_pretrained(f"{network}.*"):
        raise ModelError(f"encoder {name!r}: timm knows no weights {tag!r} of {network}")
    arguments: Mapping[str, Any] = _MIT_ARGUMENTS if name in MIT else {}
    if weights not in NAMED and (beside := _beside(Path(weights), network)):
        return beside._replace(arguments={**arguments, **beside.arguments})
    return _Said(network, arguments, *_of_timm(network, tag, weights))


def _of_timm(network: str, tag: str, weights: str) -> tuple[tuple[Three, Three] | None, str]:
    """Tell the statistics that timm knows for a network: of one tag, or what all of its weights agree on."""
    config = timm.models.get_pretrained_cfg(f"{network}.{tag}" if tag else network)
    if weights in NAMED or tag:
        mean, std = (config.mean, config.std) if config else ((0.5,) * 3, (0.5,) * 3)
        chosen = f"{network}.{tag or config.tag}" if config and (tag or config.tag) else network
        return _three(mean, std), f"timm: {chosen}"
    published_by_timm = [timm.models.get_pretrained_cfg(each) for each in timm.models.list_pretrained(f"{network}.*")]
    statistics = {(c.mean, c.std) for c in published_by_timm if c and c.architecture == network}
    if len(statistics) == 1:
        mean, std = statistics.pop()
        return _three(mean, std), f"timm: {network}"
    tags = ", ".join(f"{network}.{c.tag}" for c in published_by_timm if c and c.architecture == network)
    why = "weights of this network differ in the mean and deviation of their input" if tags else "timm has no weights"
    choice = f"name those that the file is like (--encoder {tags.split(', ')[0]}, …), or " if tags else ""
    return None, f"{weights}: a file does not say which statistics it wants, and {why}: {choice}".rstrip(": ")


def _configured(name: str) -> _Said:
    """Read the configuration of a repository of the hub, or of a folder."""
    try:
        source, place = timm.models.parse_model_name(name)
        factory = timm.models._factory
        read: Any = factory.load_model_config_from_hf if source == "hf-hub" else factory.load_model_config_from_path
        config, network, arguments = read(place)
    except Exception as error:  # the hub's client raises many kinds here, and timm those of Python for a foreign file
        reason = one_line(str(error).partition("\n")[0] or type(error).__name__, 150)
        if isinstance(error, KeyError | AttributeError | TypeError):
            reason = (
                f"its {CONFIG} is not timm's; if it is transformers', pass its file of weights with the name of"
                f" the network (--encoder NAME --encoder-weights FILE; names: {', '.join(PUBLISHED)})"
            )
        raise ModelError(
            f"encoder {name!r}: cannot be read ({reason}); a folder, local-dir:FOLDER, or a file of weights do, too"
        ) from error
    if not timm.is_model(network):
        raise ModelError(f"encoder {name!r}: timm knows no network {one_line(str(network), 60)!r}")
    arguments = {key: value for key, value in arguments.items() if key not in Architecture.OURS}
    return _Said(network, arguments, *_in_config(config, f"{CONFIG} of {name}"))


def _in_config(config: Mapping[str, Any], where: str) -> tuple[tuple[Three, Three] | None, str]:
    """Return the statistics in a configuration; without them timm would take ImageNet's."""
    mean, std = (config.get(key) for key in ("mean", "std"))
    if mean is None or std is None:
        return None, f"{where} gives no mean and std"
    if not all(isinstance(part, list | tuple) and len(part) == 3 for part in (mean, std)):
        return None, f"{where} gives mean and std that are not three numbers each"
    return _three(tuple(mean), tuple(std)), where


def _beside(path: Path, network: str) -> _Said | None:
    """Read what lies beside a file of weights: timm's configuration of the same network, or transformers' processor."""
    config, processor = path.with_name(CONFIG), path.with_name(PROCESSOR)
    if config.is_file():
        found: Any = read_json(config, ModelError, "a model's configuration", dict)
        if str(found.get("architecture", "")).partition(".")[0] == network:
            of_weights, given = found.get("pretrained_cfg", found), found.get("model_args", {})
            if not isinstance(of_weights, dict) or not isinstance(given, dict):
                raise ModelError(f"{config}: its pretrained_cfg or model_args are no object; download it again")
            arguments = {k: v for k, v in given.items() if k not in Architecture.OURS}
            return _Said(network, arguments, *_in_config(of_weights, str(config)))
    if processor.is_file():
        found = read_json(processor, ModelError, "a model's preprocessor", dict)
        renamed = {"mean": found.get("image_mean"), "std": found.get("image_std")}
        return _Said(network, {}, *_in_config(renamed, str(processor)))
    return None
