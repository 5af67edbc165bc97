"""Networks of all kinds of models, in floating point and in integers."""
