"""What a mapping writes: blocks, files, the journal and the counts of pixels."""
