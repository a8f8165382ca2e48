"""Areas, margins and objects of results, corrections included."""
