"""`xaikit run`: what a job file says, as its flags would do it."""

from __future__ import annotations

from pathlib import Path

from xaikit.cli.job import Job, argument, load_job


class Run(Job):
    """Do what a job file says: the verb and its options, as --save-job writes them.

    --quiet and --json hold for that job too; --save-job writes it again, with another ending in another form.

    \b
    Examples:
      xaikit explain cat.jpg --model torchvision:resnet18 --save-job job.yaml
      xaikit run job.yaml
    """  # noqa: D301

    VERB = "run"

    job: Path = argument(metavar="JOB", help="A .yaml, .toml or .json file.")

    def run(self) -> int:
        """Run the job in the file."""
        return self._named().run()

    def save(self, path: Path) -> Path:
        """Write the job in the file, not this one that names it."""
        return self._named().save(path)

    def _named(self) -> Job:
        from xaikit.core.errors import InvalidInputError

        job = load_job(self.job)
        if isinstance(job, Run):
            raise InvalidInputError(f"{self.job} only names another job; run that one")
        return job.model_copy(update={name: True for name in Job.model_fields if getattr(self, name)})
