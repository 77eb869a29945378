"""Istio's conventions: pilot-agent's flags, the environment and files of a pod, the bootstrap of its proxy."""
