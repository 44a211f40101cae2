"""Where a training continues from: what it keeps of itself, when, and how it is trusted again."""
