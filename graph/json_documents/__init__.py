"""JSON that somebody else may have written: read within bounds, checked against a declared form before anything uses it."""

from aprgraph.graph.json_documents.files import Document
from aprgraph.graph.json_documents.forms import (
    Exactly,
    Flag,
    Form,
    FormError,
    ListOf,
    MapOf,
    Number,
    OneOf,
    Optional,
    Record,
    Text,
    Whole,
)
from aprgraph.graph.json_documents.parse import parse_json, parse_strict_json

__all__ = [
    "Document",
    "Exactly",
    "Flag",
    "Form",
    "FormError",
    "ListOf",
    "MapOf",
    "Number",
    "OneOf",
    "Optional",
    "Record",
    "Text",
    "Whole",
    "parse_json",
    "parse_strict_json",
]
