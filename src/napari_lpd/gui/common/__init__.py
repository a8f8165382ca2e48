"""What the three widgets share: jobs, forms, layout, pickers."""
