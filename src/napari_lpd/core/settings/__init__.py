"""All settings: their base class, named presets, and one module per kind of job."""
