"""Differences between pictures, which fits and trainings make small."""
