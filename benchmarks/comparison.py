"""The comparison page: which features xaikit and eight peers have, each cell looked up in the installed package.

A peer has a feature where one of its files defines a public class or function whose name fits the row's pattern. Its
files are read and not imported, so that its requirements may be missing. Of xaikit a name must be there when asked for.

pip install --no-deps --target peers captum zennit zennit-crp shap grad-cam quantus pnpxai inseq
PYTHONPATH=peers python -m benchmarks.comparison            # prints the tables
PYTHONPATH=peers python -m benchmarks.comparison --write    # writes them into docs/comparison.md
"""

from __future__ import annotations

import ast
import dataclasses
import datetime
import functools
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path

from xaikit import EXPLAINERS, METRICS, MITIGATORS
from xaikit.core import Registry

PAGE = Path(__file__).parents[1] / "docs" / "comparison.md"
BEGIN, END = "<!-- comparison -->", "<!-- end of the comparison -->"
# The distribution on the package index, and the package that it brings.
PEERS = {
    "captum": "captum", "zennit": "zennit", "zennit-crp": "crp", "shap": "shap", "grad-cam": "pytorch_grad_cam",
    "quantus": "quantus", "pnpxai": "pnpxai", "inseq": "inseq",
}  # fmt: skip
YES, NO, UNKNOWN = "yes", "–", "not checked"
REGISTRIES: dict[str, Registry] = {"explainer": EXPLAINERS, "metric": METRICS, "mitigator": MITIGATORS}


@dataclasses.dataclass(frozen=True)
class Feature:
    """A row of the table.

    Attributes:
        title: what it is called there.
        ours: names that must be there: "explainer gradient", "xaikit.report.save_images"; none where xaikit lacks it.
        pattern: what the whole name of a peer's class or function fits.
        within: what the path of its file must hold.
        counted: whether the number of names is shown.
    """

    title: str
    ours: tuple[str, ...]
    pattern: str
    within: str = ""
    counted: bool = False


CAM_PATTERN = r"(?!Base|No|Cam|Random|Fast).*(CAM|Cam|CAMElementWise|CAMPlusPlus|FullGrad)"
# Public classes, without bases, modes and tools; captum has functions.
METRIC_PATTERN = r"(?!Metric$|Base|Batched|Attack)[A-Z]\w+(?<!Mode)|infidelity|sensitivity_max"
FEATURES = (
    Feature("integrated gradients", ("explainer integrated_gradients",), r"IntegratedGradients(Attribution)?"),
    Feature("SmoothGrad", ("explainer smoothgrad",), r"SmoothGrad|NoiseTunnel"),
    Feature(
        "expected gradients", ("explainer expected_gradients",), r"GradientShap(Attribution)?|GradientExplainer"
    ),
    Feature("DeepLIFT", ("explainer deep_lift",), r"DeepLift(Shap|Attribution)?|DeepExplainer"),
    Feature("LRP", ("explainer lrp_epsilon_plus",), r"LRP|EpsilonPlus|LRPEpsilonPlus"),
    Feature("concept relevance (CRP)", ("xaikit.explainers.lrp.conditional_relevance",), r"CondAttribution"),
    Feature("BetaSmooth", ("explainer beta_smooth",), r"BetaSmooth"),
    Feature("relative attributing propagation (RAP)", (), r"RAP"),
    Feature("contextual decomposition", ("explainer contextual_decomposition",), r"(?i)\w*contextual_?decomp\w*"),
    Feature("class activation maps", ("explainer gradcam", "explainer scorecam"), CAM_PATTERN, counted=True),
    Feature("exact Shapley values", ("explainer exact_shapley",), r"ExactExplainer|ShapleyValues"),
    Feature("kernel SHAP", ("explainer kernel_shapley",), r"KernelShap|KernelExplainer"),
    Feature("Owen values over a hierarchy", ("explainer owen_shapley",), r"PartitionExplainer"),
    Feature("Shapley values of trees", (), r"TreeExplainer"),
    Feature("LIME", ("explainer captum.lime",), r"Lime(Attribution|Tabular)?"),
    Feature("attention rollout", ("xaikit.explainers.attention.attention_relevance",), r"(?i)\w*rollout\w*"),
    Feature("generated text, token by token", ("xaikit.language.explain_generation",),
            r"LLMAttribution|TextGeneration|HuggingfaceDecoderOnlyModel"),
    Feature("TracIn", ("xaikit.influence.tracin",), r"TracInCP"),
    Feature("influence functions", ("xaikit.influence.influence_function",), r"(Naive|Arnoldi)InfluenceFunction"),
    Feature("TCAV", ("xaikit.shortcuts.tcav",), r"TCAV"),
    Feature("concepts by factorisation", ("xaikit.shortcuts.find_concepts",), r"(?i)\w*(craft|factori[sz]|nmf)\w*"),
    Feature("metrics of explanations", ("metric road",), METRIC_PATTERN, within="metric", counted=True),
    Feature("an explainer is recommended", ("xaikit.recommend",), r"(?i)\w*recommender"),
    Feature("settings of an explainer are searched", ("xaikit.tune",), r"optimize"),
    Feature("a penalty on explanations in training", ("mitigator rrr", "mitigator rbr"), r"(RRR|RBR|CDEP|HINT)\w*"),
    Feature("shortcuts are looked for", ("xaikit.SpRAy", "xaikit.shortcuts.scan"), r"(?i)spray\w*|scan_?factors|clarc"),
    Feature("a model is mended, and assessed", ("xaikit.mitigation.mend", "xaikit.assess"), r"mend\w*|assess\w*"),
    Feature("beeswarm over a data set", ("xaikit.runs.Summary",), r"beeswarm"),
    Feature("maps as picture files", ("xaikit.report.save_images",), r"imsave|imgify"),
    Feature("model, data, explainers and metrics in one object", ("xaikit.metrics.Experiment",), r"AutoExplanation"),
    Feature("a web application", ("xaikit.studio.Studio",), r"AttributionVisualizer|\w*Dashboard"),
)  # fmt: skip


@functools.lru_cache(maxsize=16)
def definitions(package: str) -> dict[str, str] | None:
    """The public classes and functions of a package's files, with the file of each; None where it is not installed.

    Args:
        package: its name when it is imported.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    root, names = Path(next(iter(spec.submodule_search_locations))), {}
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root).as_posix()
        if "test" not in inside:
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
                    names.setdefault(node.name, inside)
    return names


def names_of_peer(feature: Feature, peer: str) -> list[str] | None:
    """What a peer calls a feature; None where the peer is not installed.

    Args:
        feature: the row.
        peer: one of `PEERS`.
    """
    names = definitions(PEERS[peer])
    if names is None:
        return None
    return [name for name, path in names.items() if feature.within in path and re.fullmatch(feature.pattern, name)]


def has_ours(name: str) -> bool:
    """Whether xaikit has a name: of a registry, or of a module.

    Args:
        name: such as "explainer gradient" or "xaikit.report.save_images".
    """
    kind, _, registered = name.partition(" ")
    if registered:
        return registered in REGISTRIES[kind]
    module, _, attribute = name.rpartition(".")
    return hasattr(importlib.import_module(module), attribute)


def our_count(feature: Feature) -> int:
    """How many of a counted feature xaikit has.

    Args:
        feature: the row.
    """
    if feature.ours[0].startswith("metric"):
        return len(list(METRICS))
    return sum(1 for name in EXPLAINERS if re.search("cam|full_?grad", name) and not name.startswith("captum."))


def cells(feature: Feature) -> list[str]:
    """The cells of a row: xaikit's, then those of the peers.

    Args:
        feature: the row.

    Raises:
        LookupError: where xaikit lacks a name that the row claims.
    """
    missing = [name for name in feature.ours if not has_ours(name)]
    if missing:
        raise LookupError(f"{feature.title}: xaikit has no {missing[0]}")
    ours = NO if not feature.ours else str(our_count(feature)) if feature.counted else YES
    row = [ours]
    for peer in PEERS:
        names = names_of_peer(feature, peer)
        row.append(UNKNOWN if names is None else NO if not names else str(len(names)) if feature.counted else YES)
    return row


def heads() -> list[str]:
    """The heads of the columns, with the versions that were looked at."""
    installed = [f"{peer} {importlib.metadata.version(peer)}" if definitions(PEERS[peer]) else peer for peer in PEERS]
    return ["", "xaikit", *installed]


def page() -> str:
    """Both tables as Markdown: the features, and the names by which they were recognised."""
    head = heads()
    lines = [f"Looked up on {datetime.datetime.now(tz=datetime.UTC).date()}.", ""]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [f"| {' | '.join([f.title, *cells(f)])} |" for f in FEATURES]
    lines += ["", "These names were recognised:", "", "| feature | xaikit | peers |", "|---|---|---|"]
    for feature in FEATURES:
        theirs = {peer: names_of_peer(feature, peer) or [] for peer in PEERS}
        shown = "; ".join(
            f"{peer}: {', '.join(f'`{n}`' for n in names[:3])}{' ...' if len(names) > 3 else ''}"
            for peer, names in theirs.items()
            if names
        )
        ours = ", ".join(f"`{name.rpartition(' ')[2]}`" for name in feature.ours) or NO
        lines.append(f"| {feature.title} | {ours} | {shown or NO} |")
    return "\n".join(lines)


def written(markdown: str, begin: str, end: str, text: str) -> str:
    """A page with other text between two comments.

    Args:
        markdown: the page.
        begin: the first comment.
        end: the second.
        text: what stands between them.
    """
    before, _, rest = markdown.partition(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"


def main() -> None:
    text = page()
    if "--write" not in sys.argv[1:]:
        print(text)
        return
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), BEGIN, END, text), encoding="utf-8")


if __name__ == "__main__":
    main()
