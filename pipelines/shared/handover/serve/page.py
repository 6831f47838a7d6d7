"""The pages of a service, from the templates and the style beside this module. They fetch nothing from elsewhere."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

import pipelines
from pipelines.shared.run_folder import read_json

if TYPE_CHECKING:
    from pipelines.shared.handover.serve.service import Json, Service

HERE = Path(__file__).parent
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SHOWN = 24  # metrics


@lru_cache
def environment() -> Environment:
    """The templates. Text is escaped; a name that is missing is an error."""
    return Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@lru_cache
def static_file(name: str) -> tuple[bytes, str] | None:
    """A file of the pages and its type; None if there is none of this name."""
    files = {f.name: f for f in (HERE / "static").iterdir() if f.suffix in KINDS}
    return (files[name].read_bytes(), KINDS[files[name].suffix]) if name in files else None


def model_description(service: Service) -> Json:
    """What is known of the run that answers: `GET /model`, as JSON."""
    finished, folder = service.finished, service.finished.folder
    first = next(iter(finished.models.values()))
    metrics = read_json(folder.metrics) if folder.metrics.exists() else {}
    card = folder.path / "model_card.md"
    return {
        "study": service.study.name,
        "title": service.study.title,
        "run": folder.path.name,
        "model": service.fingerprint,
        "version": pipelines.__version__,
        "device": service.device,
        "synthetic": bool(metrics.get("source", {}).get("synthetic", False)),
        "notes": service.notes,
        "reads": list(service.study.suffixes),
        "classes": first["classes"],
        "preprocessing": first["preprocessing"],
        "networks": list(finished.models),
        "headline": metrics.get("headline"),
        "metrics": _shown(metrics),
        "operating_points": metrics.get("operating_points") or finished.operating_points,
        "takes": {
            "upload_mb": service.settings.upload_mb,
            "files": service.settings.files,
            "paths": service.settings.root is not None,
        },
        "card": card.read_text(encoding="utf-8") if card.exists() else None,
    }


def _shown(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics of test that are no subgroup's and no operating point's, the headline first."""
    every = metrics.get("metrics", {})
    keys = [k for k, e in every.items() if k.startswith("test.") and not set("[@=") & set(k) and e["value"] is not None]
    first = [k for k in (metrics.get("headline"),) if k in every]
    return {key: every[key] for key in dict.fromkeys([*first, *keys][:SHOWN])}


def front_page(service: Service, model: Json) -> str:
    """The page to try the model on."""
    return environment().get_template("front.html.j2").render(model=model, notice=_notice())


def card_page(service: Service, model: Json) -> str:
    """The model card."""
    text = model["card"] or "The run has no model card. `mode=report run=<run folder>` writes it."
    card = Markup(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))
    return environment().get_template("card.html.j2").render(model=model, card=card, notice=_notice())


def docs_page(service: Service, schema: Json, host: str) -> str:
    """What can be asked of this host, from the OpenAPI description."""
    routes = [
        {"method": method.upper(), "path": path, **{"description": "", "parameters": []}, **about}
        for path, methods in schema["paths"].items()
        for method, about in methods.items()
    ]
    return environment().get_template("docs.html.j2").render(
        title=schema["info"]["title"], routes=routes, host=host, notice=_notice(), settings=service.settings,
        reads=service.study.suffixes,
    )  # fmt: skip


def _notice() -> str:
    from pipelines.shared.handover.serve.service import NOTICE

    return NOTICE
