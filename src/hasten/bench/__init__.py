"""Measuring: engines take turns on the same inputs, outputs are compared first, ratios come with an interval."""
