"""Where a label would help a model most: pixels are chosen while a map is made, and written as points."""
