"""What produces weights: offline and online training, evaluation, publishing, importing, benches."""
