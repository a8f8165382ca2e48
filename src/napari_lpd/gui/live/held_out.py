"""Can I trust the live mask? What models that have not seen the regions say of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_lpd.core.errors import DataError
from napari_lpd.gui.common.layout import Fold
from napari_lpd.gui.layers.slides import show_box
from napari_lpd.gui.trust.panel import TrustPanel

if TYPE_CHECKING:
    import napari.viewer

    from napari_lpd.data.regions import Verdict
    from napari_lpd.gui.live.engine import Engine

NONE_YET = "No region was asked about yet: that takes regions of a tissue of which two others are left to learn from."


class HeldOut(Fold):
    """Section with the tables of the regions that were held out, as far as they were asked about."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        panel = TrustPanel()
        super().__init__("Can I trust it?", panel)
        self.panel, self._viewer = panel, viewer
        self._engine: Engine | None = None
        self.button.toggled.connect(self._show)
        self.panel.asked.connect(self._on_asked)
        self.follow(None)

    def follow(self, engine: Engine | None) -> None:
        """Show what an engine has found; None: nothing."""
        self._engine = engine
        self.setVisible(engine is not None and engine.model is not None)
        self._show()

    def _show(self) -> None:
        engine = self._engine
        if engine is None or engine.model is None or not self.button.isChecked():
            return
        from napari_lpd.evaluation.regions import trust  # is only needed once this is open

        names = [tissue.name for tissue in engine.model.card.classes]
        try:
            self.panel.show_trust(trust(list(engine.verdicts.values()), names))
        except DataError:
            self.panel.show_trust(None, NONE_YET)

    def _on_asked(self, verdict: Verdict) -> None:
        if self._engine is not None:
            show_box(self._viewer, self._engine.layer, verdict.box_um)
