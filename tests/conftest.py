"""What holds for every test."""

from hypothesis import HealthCheck, settings

# No test asserts how long something takes: the machine is shared with others.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")
