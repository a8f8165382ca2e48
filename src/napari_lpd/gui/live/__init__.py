"""The live mask: it follows the regions as they are drawn."""
