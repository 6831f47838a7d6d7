"""Which file (an annotation, a list of detections) belongs to which slide: by name, and by folder where names recur.

Names are compared without folder and suffix (.tif, .svs …), and without regard to upper and lower case, as the
challenge's own files differ in these. Where several slides or several files share a name, the folders that they lie in
decide (`patient1/slide.tif` and `xml/patient1/slide.xml`), or the slide's whole file name (`a.svs.xml` beside
`a.tif.xml`). What is then still open is a problem that names all of them; nothing is guessed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pipelines.shared.files import output_name

SUFFIXES = (
    ".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi", ".dcm", ".csv",
    ".xml",
)  # fmt: skip


def slide_key(name: str) -> str:
    """What two names of one slide have in common: no folder, no suffix of an image or table, lower case."""
    key = PurePosixPath(name.strip().replace("\\", "/")).name.lower()
    while key.endswith(SUFFIXES):
        key = key.rpartition(".")[0]
    return key


@dataclass
class Pairs:
    """Who belongs to whom.

    Attributes:
        files: slide -> its file.
        problems: (text, the slides that it concerns) of whatever could belong to two.
        strangers: files of no slide.
    """

    files: dict[str, str] = field(default_factory=dict)
    problems: list[tuple[str, list[str]]] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)


def pair(slides: Sequence[str], files: Sequence[str]) -> Pairs:
    """Give each slide its file.

    Args:
        slides: their names, all different; with a folder, where they have one.
        files: paths, relative to the folder that holds them.
    """
    pairs = Pairs()
    of_key: dict[str, list[str]] = defaultdict(list)
    for slide in slides:
        of_key[slide_key(slide)].append(slide)
    written = {output_name(slide).lower(): slide_key(slide) for slide in slides}  # as mode=predict names its results
    files_of: dict[str, list[str]] = defaultdict(list)
    for file in files:
        key = written.get(PurePosixPath(file).stem.lower(), slide_key(file))
        if key in of_key:
            files_of[key].append(file)
        else:
            pairs.strangers.append(file)
    for key, candidates in files_of.items():
        _pair_namesakes(of_key[key], candidates, pairs)
    return pairs


def _pair_namesakes(slides: list[str], files: list[str], pairs: Pairs) -> None:
    """Slides and files of one name: two belong together if each fits the other better than all their namesakes do."""
    if len(slides) == len(files) == 1:
        pairs.files[slides[0]] = files[0]
        return
    fits = {(s, f): _fit(s, f) for s in slides for f in files}
    slides_of = {f: [s for s in slides if fits[s, f] == max(fits[t, f] for t in slides)] for f in files}
    files_of = {s: [f for f in files if fits[s, f] == max(fits[s, g] for g in files)] for s in slides}
    decided = {s: fitting[0] for s, fitting in files_of.items() if len(fitting) == 1 and slides_of[fitting[0]] == [s]}
    pairs.files |= decided
    still_open: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for file in set(files) - set(decided.values()):
        if set(slides_of[file]) <= set(decided):  # the slides that it fits best have better files
            pairs.strangers.append(file)
        else:
            still_open[tuple(slides_of[file])].append(file)
    for rivals, fitting in still_open.items():
        pairs.problems.append((f"{' or '.join(sorted(fitting))} could belong to {' or '.join(rivals)}", list(rivals)))


def _fit(slide: str, file: str) -> tuple[bool, int]:
    """Whether a file bears the slide's whole name, and how many of their folders agree, from the file upwards."""
    place, other = (PurePosixPath(name.replace("\\", "/").lower()) for name in (slide, file))
    whole = other.stem in (place.name, output_name(slide).lower())
    agreeing = 0
    for a, b in zip(reversed(place.parts[:-1]), reversed(other.parts[:-1]), strict=False):
        if a != b:
            break
        agreeing += 1
    return whole, agreeing
