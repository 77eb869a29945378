"""What holds for every test."""

from hypothesis import HealthCheck, settings

settings.register_profile("machine-shared-with-others")  # no test asserts how long something takes
settings.load_profile("shared-machine")
