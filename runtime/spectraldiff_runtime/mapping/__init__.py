"""From a scene and a model to a map: one process, or many."""
