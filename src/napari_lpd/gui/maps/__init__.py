"""Maps of a result that are shown when asked for: heatmaps of classes, uncertainty, tissue mask."""
