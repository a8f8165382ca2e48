"""The rows of the papers' tables and of our own: a preset each, and what is set differently."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One row of a table: a preset and what is set differently."""

    name: str
    preset: str
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The row's name as a folder's."""
        return "".join(letter if letter.isalnum() or letter in ".-=" else "_" for letter in self.name)


TABLES: dict[str, tuple[Row, ...]] = {
    "table1": (
        Row("LPD", "default"),
        Row("PBIP", "pbip"),
        Row("CAM", "cam"),
        Row("random", "random"),
    ),
    "table2": tuple(
        Row(f"k{k}-diversity{weight:g}", "default", (f"model.prototypes_per_class={k}", f"diversity_weight={weight}"))
        for k in (3, 10)
        for weight in (0.0, 0.25, 0.5, 0.75)
    ),
    "variants": (
        Row("off", "default", ("diversity=off",)),
        Row("centred", "default", ("diversity=centred",)),
        Row("projected", "default", ("diversity=projected",)),
        Row("projected-all", "default", ("diversity=projected", "diversity_trains=all")),
        Row(
            "projected-all-tau1",
            "default",
            ("diversity=projected", "diversity_trains=all", "diversity_temperature=1"),
        ),
        Row("official-head", "default", ("diversity=official-head", "diversity_trains=all")),
        Row("official-first-commit", "default", ("diversity=official-first-commit", "diversity_trains=all")),
    ),
    "fast": (
        Row("fast", "fast"),
        Row("clustered", "fast", ("model.bank=clustered",)),
        Row("random", "fast", ("model.bank=random",)),
        Row("linear", "fast", ("model.bank=linear", "model.prototypes_per_class=1", "diversity=off")),
        Row("contrast", "fast", ("contrast_weight=0.1",)),
        Row("three-necks", "fast", ("model.necks=3",)),
    ),
}
