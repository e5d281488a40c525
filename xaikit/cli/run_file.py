"""`xaikit run`: what a job file says, as its flags would do it."""

from __future__ import annotations

from pathlib import Path

from xaikit.cli.job import Job, argument, load_job


class Run(Job):
    """Do what a job file says: the verb and its options, as --save-job writes them.

    \b
    Examples:
      xaikit explain cat.jpg --model torchvision:resnet18 --save-job job.yaml
      xaikit run job.yaml
    """  # noqa: D301

    VERB = "run"

    job: Path = argument(metavar="JOB", help="A .yaml, .toml or .json file.")

    def run(self) -> int:
        """Run the job in the file."""
        from xaikit.core.errors import InvalidInputError

        job = load_job(self.job)
        if isinstance(job, Run):
            raise InvalidInputError(f"{self.job} only names another job; run that one")
        return job.run()
