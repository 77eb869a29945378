"""The agent with short spans where it has no option for them: `python -m tests.system.hurried …` is `agent …`."""

from functools import partial

from agent.cli import settings
from agent.core.policy import Policy
from agent.entry import main
from agent.processes import hang_detector

if __name__ == "__main__":
    vars(hang_detector)["Intervals"] = partial(hang_detector.Intervals, 0.05, 0.1, 0.05, 0.3)
    vars(settings)["Policy"] = partial(Policy, end_timeout=1.0)
    main()
