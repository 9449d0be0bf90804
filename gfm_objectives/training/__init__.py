"""What pretraining and fine-tuning share: one optimiser, one step, one look at whether the loss is a number."""
