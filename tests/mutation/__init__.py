"""Mutation testing on demand: changes the code in small ways and sees whether the tests notice."""
