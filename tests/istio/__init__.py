"""Tests of Istio's conventions."""
