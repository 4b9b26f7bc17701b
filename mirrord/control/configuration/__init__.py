"""From what somebody wrote to a model, or to every problem in it."""
