r"""The formulas of explainers and penalties as LaTeX; the site shows them as MathML, which browsers draw by themselves.

S is the explained score, f the output, x the input, b a baseline, z the sum that arrives at an output, R relevance,
M a mask that is 1 where the model must not look, C the mean cross-entropy of the task.
"""

from __future__ import annotations

from latex2mathml.converter import convert

from xaikit import MITIGATORS

POSITIVE, NEGATIVE = r"(x_i w_{ij})^{+}", r"(x_i w_{ij})^{-}"
PATH = r"\int_0^1 \frac{\partial S}{\partial x}\Big(b + t\,(x - b)\Big)\,\mathrm{d}t"

EXPLAINERS = {
    "gradient": r"\frac{\partial S}{\partial x}",
    "gradient_x_input": r"x \odot \frac{\partial S}{\partial x}",
    "integrated_gradients": rf"(x - b) \odot {PATH}",
    "discretised_integrated_gradients": (
        r"\sum_{k=0}^{m-1} \frac{\partial S}{\partial x}(x_k) \odot (x_{k+1} - x_k), "
        r"\quad x_0 = b,\; x_m = x,\; \text{between them words}"
    ),
    "beta_smooth": (
        r"\frac{\partial S}{\partial x} "
        r"\quad \text{with} \quad \frac{\mathrm{d}\, \mathrm{ReLU}(z)}{\mathrm{d} z} := \frac{1}{1 + e^{-\beta z}}"
    ),
    "expected_gradients": rf"\mathbb{{E}}_{{b}}\left[ (x - b) \odot {PATH} \right]",
    "deep_lift": (
        r"(x_i - b_i)\, m_i, \quad m_i = \sum_j m_{ij}\, m_j, \quad "
        r"\sum_i m_{ij} (x_i - b_i) = f_j(x) - f_j(b)"
    ),
    "deep_lift_shap": r"\frac{1}{K} \sum_{k=1}^{K} (x - b_k) \odot m(x, b_k)",
    "owen_shapley": (
        r"\phi_i = \frac{1}{|\Pi|} \sum_{\pi \in \Pi} S(x_{\pi < i} \cup \{i\}) - S(x_{\pi < i}), "
        r"\quad \Pi:\; \text{the orders in which each part of the hierarchy stays together}"
    ),
    "smoothgrad": (
        r"\frac{1}{n} \sum_{k=1}^{n} \frac{\partial S}{\partial x}(x + \sigma z_k), "
        r"\quad z_k \sim \mathcal{N}(0, 1)"
    ),
    "vargrad": (
        r"\frac{1}{n} \sum_{k=1}^{n} \left( \frac{\partial S}{\partial x}(x + \sigma z_k) - \bar{g} \right)^2, \quad"
        r" "
        r"\bar{g} = \frac{1}{n} \sum_{k=1}^{n} \frac{\partial S}{\partial x}(x + \sigma z_k)"
    ),
    "gradcam": (
        r"\mathrm{ReLU}\left( \sum_k w_k A_k \right), "
        r"\quad w_k = \frac{1}{P} \sum_{p=1}^{P} \frac{\partial S}{\partial A_{kp}}"
    ),
    "gradcam_plus_plus": (
        r"\mathrm{ReLU}\left( \sum_k w_k A_k \right), \quad w_k = \sum_p \alpha_{kp}\, "
        r"\mathrm{ReLU}\left( \frac{\partial S}{\partial A_{kp}} \right)"
    ),
    "lrp_uniform_epsilon": (
        r"R_i = x_i \sum_j \frac{w_{ij}\, R_j}{z_j + \varepsilon\, \mathrm{sign}(z_j)}, "
        r"\quad z_j = \sum_i x_i w_{ij} + b_j"
    ),
    "lrp_epsilon_plus": rf"R_i = \sum_j \frac{{{POSITIVE}}}{{\sum_k (x_k w_{{kj}})^{{+}}}}\, R_j",
    "lrp_epsilon_alpha2_beta1": (
        rf"R_i = \sum_j \left( 2\, \frac{{{POSITIVE}}}{{\sum_k (x_k w_{{kj}})^{{+}}}} "
        rf"- \frac{{{NEGATIVE}}}{{\sum_k (x_k w_{{kj}})^{{-}}}} \right) R_j"
    ),
    "lrp_epsilon_gamma_box": (
        r"R_i = \sum_j \frac{x_i w_{ij} - l_i w_{ij}^{+} - h_i w_{ij}^{-}}"
        r"{\sum_k x_k w_{kj} - l_k w_{kj}^{+} - h_k w_{kj}^{-}}\, R_j "
        r"\quad \text{where pixels lie between } l \text{ and } h"
    ),
    "attn_lrp": (
        r"R_{A} = R_{V} = \frac{1}{2} R_{AV}, \qquad "
        r"R_i = x_i \left( R_{s_i} - s_i \sum_j R_{s_j} \right) \text{ through } s = \mathrm{softmax}(x)"
    ),
    "contextual_decomposition": (
        r"f(x) = \beta(x) + \gamma(x), "
        r"\quad \beta:\; \text{what the chosen part of the input gives}"
    ),
}

PENALTIES = {
    "rrr": r"\lambda \sum \left( M \odot \frac{\partial}{\partial x} \log p(y \mid x) \right)^2",
    "rbr": (
        r"\lambda \sum \left( M \odot \frac{\partial}{\partial x}\, \frac{1}{2}\, g^{\top} H^{-1} g \right)^2, \quad "
        r"g = \frac{\partial \log p(y \mid x)}{\partial \theta}"
    ),
    "cdep": (
        r"\lambda\, \mathrm{mean} \left( \gamma_M - \bar{\gamma}_M \right)^2, "
        r"\quad \gamma_M:\; \text{what the masked part gives}"
    ),
    "hint": (
        r"\lambda\, \mathrm{mean} \left( 1 - \frac{\sum_i m_i | a_i |}{\sum_i | a_i |} \right), "
        r"\quad m:\; \text{where it should look}"
    ),
    "attribution_prior": r"\lambda \sum_{p, q \text{ neighbours}} | a_p - a_q |",
    "counterexamples": r"\lambda\, C(\tilde{x}, y), \quad \tilde{x}:\; \text{the masked region drawn anew}",
    "pgd_ex": (
        r"\lambda\, \max_{|\delta| \le \varepsilon} C(x + M \odot \delta, y), "
        r"\quad \text{by gradient ascent}"
    ),
    "group_dro": (
        r"\lambda \left( \sum_g q_g C_g - C \right), "
        r"\quad q_g \propto q_g e^{\eta C_g}:\; \text{weight of the group } g"
    ),
    "group_balanced": (
        r"\lambda \left( \frac{1}{G} \sum_g C_g - C \right), \quad C_g:\; \text{mean loss of the group } g"
    ),
    "dfr": (r"\lambda \left( \frac{1}{G} \sum_g C_g - C \right) \text{ in the last layer alone}"),
    "jtt": r"\lambda\, \mathrm{mean}\; [\text{a first training was wrong}]\, C",
    "rr_clarc": (
        r"\lambda\, \mathrm{mean} \left\langle \frac{\partial S}{\partial a}, v \right\rangle^2, "
        r"\quad v:\; \text{the concept}"
    ),
    "a_clarc": (
        r"\lambda\, C\left( a - v v^{\top} (a - \bar{a}), y \right), "
        r"\quad \bar{a}:\; \text{mean where the concept shows}"
    ),
}


def formula(name: str) -> str:
    """The formula of an explainer as a block of the page; nothing where there is none."""
    return f'<div class="formula">{convert(EXPLAINERS[name], display="block")}</div>' if name in EXPLAINERS else ""


def penalties() -> str:
    """A table: each mitigator, and what it adds to the task's loss C at its default settings."""
    rows = ["| mitigator | adds to the task's loss C |", "|---|---|"]
    for name in sorted(MITIGATORS, key=lambda n: list(PENALTIES).index(n) if n in PENALTIES else len(PENALTIES)):
        cls = MITIGATORS.get(name)
        shown = convert(PENALTIES[name]) if name in PENALTIES else ""
        rows.append(f"| [`{cls.__name__}`][xaikit.mitigation.{cls.__name__}] | {shown} |")
    return "\n".join(rows)
