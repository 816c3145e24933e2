"""Suites of trials: methods, motions and seeds under equal conditions, and their report."""
