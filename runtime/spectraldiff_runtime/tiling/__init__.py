"""Strips of a scene, the tiles cut from them, and the memory that both may take."""
