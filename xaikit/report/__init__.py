"""Figures, and the report: one HTML page with tables, figures and explained samples."""

from xaikit.report.concept_sections import concept_sections
from xaikit.report.generation_sections import generation_sections
from xaikit.report.html import Picture, Report, Table
from xaikit.report.names import Names
from xaikit.report.picture_files import save_images
from xaikit.report.sections import evaluation_sections, mitigation_sections, profile_sections, tuning_sections
from xaikit.report.summary_sections import summary_sections

__all__ = [
    "Names",
    "Picture",
    "Report",
    "Table",
    "concept_sections",
    "evaluation_sections",
    "generation_sections",
    "mitigation_sections",
    "profile_sections",
    "save_images",
    "summary_sections",
    "tuning_sections",
]
