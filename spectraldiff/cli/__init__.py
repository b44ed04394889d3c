"""Commands of ``sdiff`` that train or look at trainings."""
