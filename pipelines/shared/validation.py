"""Checks a composed configuration against its model, and says in words what is wrong. Neither torch nor numpy."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from pipelines.shared.config import StudyConfig
from pipelines.shared.errors import ConfigError, nearest


def check(model: type[StudyConfig], values: dict[str, Any]) -> StudyConfig:
    """Validate composed values against a study's model.

    Raises:
        ConfigError: the first mistake, with its key, what was found, what is allowed; others are counted.
    """
    try:
        return model.model_validate(values)
    except ValidationError as failure:
        errors = failure.errors()
        first = errors[0]
        more = f" ({len(errors) - 1} more after this one)" if len(errors) > 1 else ""
        problem, remedy = _explain(model, values, first)
        raise ConfigError(problem + more, remedy) from None


def _explain(model: type[BaseModel], values: dict[str, Any], error: Any) -> tuple[str, str]:
    # A union's tag ("phantom" in data.phantom.size) stands in the location but is no key: keep what is one.
    path: list[str] = []
    here: Any = values
    tagged: Any = None
    for part in error["loc"]:
        # A source may have a section of its own name (data.phantom.size): the first time it is the tag.
        if isinstance(here, dict) and here is not tagged and part == here.get("name"):
            tagged = here
            continue
        if isinstance(here, dict) and part not in here and error["type"] not in ("extra_forbidden", "missing"):
            continue
        if isinstance(here, dict) and part not in here and part != error["loc"][-1]:
            continue
        if not isinstance(here, (dict, list)):
            continue  # the branch of a union such as int | None
        path.append(str(part))
        here = here[part] if isinstance(here, (dict, list)) and part in _indices(here) else None
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        siblings = [k for k in allowed_keys(model, values) if k.rpartition(".")[0] == ".".join(path[:-1])]
        return f"Unknown key '{key}'.", nearest(key, siblings or allowed_keys(model, values))
    if error["type"] == "missing":
        return f"The key '{key}' is missing.", "Give it a value, or leave the configuration files as they are."
    if error["type"] == "union_tag_invalid":
        tag = values.get(path[0], {}).get("name") if path else None
        return f"{key}.name={tag!r} is no source of this study.", f"Allowed: {error['ctx']['expected_tags']}."
    if error["type"] == "value_error":  # a rule over several keys of a section
        return f"{key + ': ' if key else ''}{_lower(error['msg'])}.", "Change one of the values it names."
    return f"{key}={_shown(here)}: {_lower(error['msg'])}.", "Change the value; `--help` shows the key's default."


def _indices(node: dict[Any, Any] | list[Any]) -> Any:
    return node if isinstance(node, dict) else range(len(node))


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _lower(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def allowed_keys(model: type[BaseModel], values: dict[str, Any], prefix: str = "") -> list[str]:
    """All dotted keys that a configuration may have, sections included, given which source `values` choose.

    A free-form dictionary (`data.targets`) is listed as `data.targets.*`.
    """
    keys: list[str] = []
    for name, field in model.model_fields.items():
        dotted = f"{prefix}{name}"
        keys.append(dotted)
        section = _section(field.annotation, values.get(name) if isinstance(values, dict) else None)
        if section is not None:
            inner = values.get(name) if isinstance(values, dict) else None
            keys += allowed_keys(section, inner or {}, dotted + ".")
        elif get_origin(field.annotation) is dict:
            keys.append(f"{dotted}.*")
    return keys


def source_names(model: type[BaseModel]) -> list[str]:
    """The names of sources that a configuration knows: those of the sections that its `data` may be."""
    return [name for section in _sections(model.model_fields["data"].annotation) for name in _names(section)]


def _section(annotation: Any, values: Any) -> type[BaseModel] | None:
    """The section model behind an annotation; in a union of sources the one whose `name` was chosen."""
    sections = _sections(annotation)
    if len(sections) == 1:
        return sections[0]
    chosen = values.get("name") if isinstance(values, dict) else None
    return next((section for section in sections if chosen in _names(section)), None)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The section models that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _sections(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [section for choice in get_args(annotation) for section in _sections(choice)]
    return []


def _names(section: type[BaseModel]) -> tuple[str, ...]:
    field = section.model_fields.get("name")
    return get_args(field.annotation) if field is not None else ()
