"""The paper's comparison: ten methods on identical splits, as in its Tables II to VI and Figs. 6 to 8."""
