"""Trees on disk: `conf/skin/taxonomy/<name>.yaml`, or a file of the user's own.

malignant:                      three-way
  malignant_melanoma:           nine-way
    melanoma: [mel, lmm]        any further nodes; at the end a list of the dataset's own labels
"""

from __future__ import annotations

from pathlib import Path

import yaml

from pipelines.shared.config import conf_folder
from pipelines.shared.errors import DataError, listed, nearest
from pipelines.skin.taxonomy import Taxonomy

ROOT = "skin"
SHALLOWEST = 3  # levels below the root at which a leaf may be: below a three-way and a nine-way node


def read_tree(name: str) -> Taxonomy:
    """A tree by its name in `conf/skin/taxonomy/`, or from a YAML file.

    Raises:
        DataError: no such tree, or all that is wrong with it: a cycle, a name that occurs twice, an empty node, a leaf
            too near to the root.
    """
    file = Path(name) if name.endswith((".yaml", ".yml")) else _folder() / f"{name}.yaml"
    if not file.is_file():
        known = sorted(f.stem for f in _folder().glob("*.yaml"))
        remedy = nearest(name, known) + " Or give a .yaml file of your own."
        raise DataError(f"data.taxonomy={name}: there is no such tree.", remedy)
    try:
        top = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as failure:
        reason = " ".join(str(failure).split())
        raise DataError(f"{file} cannot be read as YAML: {reason}", "Correct it; see conf/skin/taxonomy/.") from None
    reader = _Reader()
    reader.node(ROOT, top, ())
    if reader.problems:
        raise DataError(
            f"{file}: {len(reader.problems)} problems in the tree.\n{listed(reader.problems, len(reader.problems))}",
            "Every name occurs once, every node holds a list of labels or further nodes, and every label has a "
            "three-way and a nine-way node above it.",
        )
    return Taxonomy(ROOT, reader.children)


def _folder() -> Path:
    return conf_folder() / "skin" / "taxonomy"


class _Reader:
    """Walks YAML's own nodes, so that keys that occur twice and aliases that run in a circle are seen."""

    def __init__(self) -> None:
        self.children: dict[str, tuple[str, ...]] = {}
        self.lines: dict[str, int] = {}
        self.problems: list[str] = []

    def node(self, name: str, content: yaml.Node | None, above: tuple[str, ...]) -> None:
        """Take up one node and everything below it."""
        line = content.start_mark.line + 1 if content else 1
        if isinstance(content, yaml.MappingNode) and content.value:
            inside = [(str(key.value), key.start_mark.line + 1, value) for key, value in content.value]
        elif isinstance(content, yaml.SequenceNode) and content.value:
            inside = [(str(item.value), item.start_mark.line + 1, None) for item in content.value]
            nested = [item for item in content.value if not isinstance(item, yaml.ScalarNode)]
            if nested:
                where = nested[0].start_mark.line + 1
                self.problems.append(f"line {where}: the list of '{name}' holds something that is no label")
                return
        else:
            self.problems.append(f"line {line}: the node '{name}' is empty")
            self.children[name] = ()
            return
        self.children[name] = tuple(child for child, _, _ in inside)
        for child, line, value in inside:
            path = (*above, name)
            if child in path:
                self.problems.append(f"line {line}: a cycle, '{child}' lies below itself ({' > '.join(path)})")
                continue
            if child in self.lines:
                kind = "leaf" if value is None else "node"
                first = self.lines[child]
                self.problems.append(f"line {line}: the {kind} '{child}' occurs twice (first in line {first})")
                continue
            self.lines[child] = line
            if not child or "/" in child:
                self.problems.append(f"line {line}: '{child}' is no name; it must not be empty or hold a '/'")
            if value is not None:
                self.node(child, value, path)
                continue
            self.children[child] = ()
            if len(path) < SHALLOWEST:
                self.problems.append(f"line {line}: the label '{child}' lies too near to the root ({' > '.join(path)})")
