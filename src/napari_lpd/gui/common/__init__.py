"""Parts shared by the three widgets: jobs, forms, layout, pickers."""
