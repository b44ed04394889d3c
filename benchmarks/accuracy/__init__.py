"""The paper's comparison: ten methods on identical splits, in the form of its Tables II to VI and Figs. 6 to 8."""
