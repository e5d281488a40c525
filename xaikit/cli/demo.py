"""`xaikit demo`: a model that relies on a shortcut, explained, measured and mended."""

from __future__ import annotations

from pathlib import Path

from xaikit.cli.job import Job, flag

RESULT = "results.json"
FIRST = {"vanilla.png", "mended.png", "accuracy.png"}  # what an interrupted demo leaves


class Demo(Job):
    """Explain, tune and mend a model that a planted shortcut fools (real digits, about two minutes).

    \b
    Examples:
      xaikit demo
      xaikit demo --quick --out xaikit-demo
    """  # noqa: D301

    VERB = "demo"

    out: Path = flag(Path("xaikit-demo"), help="Folder for figures, results and weights.")
    quick: bool = flag(False, help="Use fewer epochs and trials: less precise, half the time.")
    seed: int = flag(0, help="Seed of the data split, the weights, the order and the noise.")

    def written_alone(self) -> Path | None:
        """The folder, whose files belong together."""
        return self.out

    def run(self) -> int:
        """Tell the story, write its figures and numbers."""
        import contextlib
        import dataclasses
        import io
        import json

        from xaikit.cli import demo_story
        from xaikit.cli.options import check_folder
        from xaikit.core import Int
        from xaikit.core.files import write_whole

        plan = demo_story.Plan(seed=Int(ge=0).check(self.seed, "--seed"))
        if self.quick:
            plan = dataclasses.replace(plan, epochs=10, trials=4)
        if not (self.out.is_dir() and {path.name for path in self.out.iterdir()} <= FIRST):
            check_folder(self.out, RESULT)
        self.out.mkdir(parents=True, exist_ok=True)
        silent = self.quiet or self.json_output
        with contextlib.redirect_stdout(io.StringIO()) if silent else contextlib.nullcontext():
            results = demo_story.tell(plan, self.out, progress=not self.quiet)
        path = write_whole(self.out / RESULT, json.dumps(results, indent=2) + "\n")
        if silent:
            self.tell(f"wrote {path}", **results, written=[str(path)])
        return 0
