"""Profile `coolchic`: a function fitted to the pixels."""
