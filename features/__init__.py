"""What happened, and how it becomes numbers: events, log, codings, real-time features, the one assembler."""
