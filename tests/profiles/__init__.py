"""Tests of the profile library and of what its profiles mean in bytes."""
