"""What experiments have shown: the log counted by user and arm, and the statistics of the differences."""
