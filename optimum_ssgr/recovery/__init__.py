"""Fine-tune a pruned model on the dense model's own correct traces, with its zeros kept."""
