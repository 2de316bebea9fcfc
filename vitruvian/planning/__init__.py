"""What a training would need, before anything is spent: memory, time and cost."""
