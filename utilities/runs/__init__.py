"""What a run keeps on disk: its folder, checkpoints, metrics.jsonl and the W&B record.

May import: utilities.
"""
