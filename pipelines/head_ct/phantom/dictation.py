"""Dictates a radiology report on a synthetic head, and says what each sentence means.

The phrasings below are written down apart from the labeller's lexicon (conf/head_ct/lexicon.yaml) and on purpose do not
agree with it: each concept has some that the lexicon holds and some that it does not (`UNSEEN`), which are used for a
fifth of the statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator

PHRASES: dict[str, list[str]] = {
    "subdural_hematoma": ["subdural haematoma", "subdural hematoma", "SDH", "subdural collection"],
    "epidural_hematoma": ["epidural haematoma", "extradural haematoma", "epidural hemorrhage", "EDH"],
    "subarachnoid_hemorrhage": ["subarachnoid haemorrhage", "subarachnoid hemorrhage", "SAH", "subarachnoid blood"],
    "intraparenchymal_hemorrhage": ["intraparenchymal haemorrhage", "intracerebral hematoma", "parenchymal hematoma"],
    "intraventricular_hemorrhage": ["intraventricular haemorrhage", "IVH", "intraventricular blood"],
    "intracranial_hemorrhage": ["intracranial haemorrhage", "haemorrhage", "intracranial bleed"],
    "infarct": ["infarct", "infarction", "ischaemic stroke"],
    "mass": ["mass", "mass lesion", "space-occupying lesion", "tumour"],
    "skull_fracture": ["skull fracture", "calvarial fracture", "fracture"],
    "hydrocephalus": ["hydrocephalus", "obstructive hydrocephalus"],
    "midline_shift": ["midline shift", "shift of midline structures"],
    "mass_effect": ["mass effect", "local mass effect"],
    "sulcal_effacement": ["sulcal effacement", "effacement of the sulci"],
    "ventricular_effacement": ["effacement of the lateral ventricle", "compression of the lateral ventricle"],
    "cisternal_effacement": ["effacement of the basal cisterns", "cisternal effacement"],
    "brain_edema": ["cerebral oedema", "surrounding edema", "brain swelling"],
    "herniation": ["uncal herniation", "transtentorial herniation"],
    "subfalcine_herniation": ["subfalcine herniation", "subfalcial herniation"],
    "trapped_ventricle": ["trapped ventricle", "entrapment of the ventricle"],
    "intracranial_hypertension": ["raised intracranial pressure", "increased intracranial pressure"],
    "ventricular_dilatation": ["ventriculomegaly", "dilated ventricles"],
    "transependymal_edema": ["transependymal oedema", "periventricular capping"],
    "loss_of_differentiation": ["loss of grey-white differentiation", "loss of the insular ribbon"],
    "dense_vessel": ["hyperdense artery", "hyperdense MCA"],
    "hypodensity": ["wedge-shaped hypodensity", "territorial hypodensity"],
    "hemorrhagic_transformation": ["haemorrhagic transformation", "hemorrhagic conversion"],
    "aneurysm": ["aneurysm"],
    "abscess": ["abscess"],
    "pneumocephalus": ["pneumocephalus", "intracranial air"],
    "diastasis": ["sutural diastasis"],
    "hemosinus": ["haemosinus"],
    "contusion": ["contusion", "haemorrhagic contusion"],
    "active_bleeding": ["active extravasation", "swirl sign"],
    "atrophy": ["cerebral atrophy", "involutional change", "volume loss"],
    "small_vessel_disease": ["small vessel disease", "chronic microvascular change"],
    "calcification": ["physiologic calcification", "vascular calcification"],
    "lacune": ["lacunar infarct", "lacune"],
    "scalp_swelling": ["scalp haematoma", "soft tissue swelling"],
    "sinus_disease": ["mucosal thickening", "sinus opacification"],
}
UNSEEN: dict[str, list[str]] = {
    "subdural_hematoma": ["crescentic extra-axial density"],
    "epidural_hematoma": ["lentiform extra-axial density"],
    "subarachnoid_hemorrhage": ["hyperdensity filling the sulci"],
    "intraparenchymal_hemorrhage": ["rounded hyperdense focus"],
    "intraventricular_hemorrhage": ["layering density in the occipital horns"],
    "intracranial_hemorrhage": ["hyperdense material"],
    "infarct": ["recent vascular insult"],
    "mass": ["expansile process"],
    "skull_fracture": ["cortical break of the calvarium"],
    "hydrocephalus": ["ballooning of the ventricular system"],
    "midline_shift": ["deviation of the septum pellucidum"],
    "mass_effect": ["local crowding"],
    "sulcal_effacement": ["poorly seen convexity markings"],
    "ventricular_effacement": ["slit-like ipsilateral horn"],
    "cisternal_effacement": ["crowded perimesencephalic spaces"],
    "brain_edema": ["diffuse swollen parenchyma"],
    "herniation": ["medial displacement of the uncus"],
    "ventricular_dilatation": ["prominent temporal horns"],
    "pneumocephalus": ["gas locules beneath the table"],
    "atrophy": ["prominent cortical markings"],
    "small_vessel_disease": ["patchy low attenuation about the ventricles"],
    "sinus_disease": ["fluid level in a sinus"],
}
CONCEPT_OF = {
    "epidural": "epidural_hematoma", "subdural": "subdural_hematoma", "subarachnoid": "subarachnoid_hemorrhage",
    "intraparenchymal": "intraparenchymal_hemorrhage", "intraventricular": "intraventricular_hemorrhage",
    "infarct": "infarct", "mass": "mass", "fracture": "skull_fracture", "hydrocephalus": "hydrocephalus",
    "atrophy": "atrophy", "small_vessel_disease": "small_vessel_disease", "calcification": "calcification",
    "lacune": "lacune", "scalp_swelling": "scalp_swelling", "sinus_disease": "sinus_disease",
}  # fmt: skip
PRESSURE = [
    "mass_effect", "sulcal_effacement", "midline_shift", "ventricular_effacement", "brain_edema",
    "subfalcine_herniation", "cisternal_effacement", "herniation", "trapped_ventricle", "intracranial_hypertension",
]  # fmt: skip
# What goes along with a finding, in the order in which it appears as the finding grows.
ALONG: dict[str, list[str]] = {
    "epidural": PRESSURE,
    "subdural": PRESSURE,
    "intraparenchymal": ["brain_edema", "mass_effect", "active_bleeding", *PRESSURE[1:4], *PRESSURE[5:]],
    "mass": ["brain_edema", "mass_effect", *PRESSURE[1:4], *PRESSURE[5:], "ventricular_dilatation"],
    "infarct": ["loss_of_differentiation", "hypodensity", "dense_vessel", "sulcal_effacement", "brain_edema",
                "mass_effect", "hemorrhagic_transformation", "midline_shift", "ventricular_effacement", "herniation"],
    "subarachnoid": ["intracranial_hemorrhage", "intraventricular_hemorrhage", "hydrocephalus", "brain_edema",
                     "aneurysm", "ventricular_dilatation", "cisternal_effacement", "sulcal_effacement",
                     "transependymal_edema", "intracranial_hypertension"],
    "intraventricular": ["intracranial_hemorrhage", "hydrocephalus", "ventricular_dilatation", "transependymal_edema",
                         "intracranial_hypertension", "sulcal_effacement", "brain_edema", "cisternal_effacement",
                         "herniation", "active_bleeding"],
    "fracture": ["pneumocephalus", "contusion", "hemosinus", "diastasis", "intracranial_hemorrhage", "brain_edema",
                 "mass_effect", "sulcal_effacement", "subarachnoid_hemorrhage", "intracranial_hypertension"],
    "hydrocephalus": ["ventricular_dilatation", "transependymal_edema", "sulcal_effacement",
                      "intracranial_hypertension", "brain_edema", "cisternal_effacement", "trapped_ventricle",
                      "herniation", "mass_effect", "midline_shift"],
}  # fmt: skip
DENIED = [
    "intracranial_hemorrhage", "mass_effect", "midline_shift", "hydrocephalus", "skull_fracture", "infarct", "mass",
    "subdural_hematoma",
]  # fmt: skip
PRESENT = [
    "There is {p}.", "{p} is noted.", "Findings of {p}.", "{p} is again seen.", "Evidence of {p} on the {side}.",
    "There is {p} on the {side}.", "{p} is seen, measuring up to {mm} mm.", "New {p} since the prior study.",
    "No change in the {p}.", "Unchanged {p}.",
]  # fmt: skip
ABSENT = [
    "No {p}.", "There is no {p} or {q}.", "No evidence of {p} or {q}.", "{p} is not seen.", "Without {p}.",
    "Negative for {p}.", "No acute {p}, {q} or {r}.", "{p} is absent.", "Previously described {p} has resolved.",
    "Neither {p} nor {q} is present.",
]  # fmt: skip
UNCERTAIN = [
    "Cannot exclude {p}.", "Possible {p}.", "{p} cannot be excluded.", "Findings suspicious for {p}.",
    "Artifact versus {p}.", "Questionable {p} on the {side}.", "{p} is suspected.", "?{p}",
]  # fmt: skip
HISTORICAL = [
    "History of {p}.", "Old {p}.", "Status post evacuation of {p}.", "Remote {p} in the {side} hemisphere.",
    "Prior {p}.", "Chronic {p}.",
]  # fmt: skip
NEUTRAL = [
    "The visualized orbits are unremarkable.", "The mastoid air cells are clear.", "Vertebral arteries are patent.",
    "Study limited by motion.", "Images were reviewed in brain and bone windows.", "The ventricles are normal in size.",
    "Basal cisterns are patent.", "Grey-white differentiation is preserved.",
]  # fmt: skip


@dataclass(frozen=True)
class Statement:
    """What a report says about a concept; `known`: whether the phrasing is in the list that the lexicon shares."""

    concept: str
    status: str
    known: bool


@dataclass(frozen=True)
class Noise:
    """How far reports are from the truth, all chances.

    Attributes:
        unseen: of a phrasing that the lexicon does not hold.
        typing: of a typing error in a long word of a statement.
        left_out: of a true accompanying finding not being mentioned.
        overlooked: of a small finding not being reported at all.
    """

    unseen: float = 0.2
    typing: float = 0.04
    left_out: float = 0.12
    overlooked: float = 0.3


def dictate(
    rng: Generator, findings: Sequence[tuple[str, float]], noise: Noise, age: int
) -> tuple[str, list[Statement]]:
    """A report on findings (kind, severity from 0 to 1), and what it says."""
    statements: list[Statement] = []
    lines: list[str] = []

    def say(concepts: Sequence[str], status: str, templates: Sequence[str]) -> None:
        sentence = str(rng.choice(templates))
        slots = [s for s in "pqr" if "{" + s + "}" in sentence][: len(concepts)]
        if len(slots) < sentence.count("{p}") + sentence.count("{q}") + sentence.count("{r}"):
            sentence, slots = next(t for t in templates if "{q}" not in t and "{r}" not in t), ["p"]
        words = {"side": str(rng.choice(["left", "right"])), "mm": str(int(rng.integers(3, 25)))}
        for slot, concept in zip(slots, concepts, strict=False):
            unseen = concept in UNSEEN and rng.random() < noise.unseen
            phrase = str(rng.choice(UNSEEN[concept] if unseen else PHRASES[concept]))
            words[slot] = _mistyped(rng, phrase) if rng.random() < noise.typing else phrase
            statements.append(Statement(concept, status, not unseen))
        text = sentence.format(**words)
        lines.append(text[:1].upper() + text[1:])

    mentioned: set[str] = set()
    for kind, severity in findings:
        concept = CONCEPT_OF[kind]
        if kind in ALONG and severity < 0.25 and rng.random() < noise.overlooked:
            continue
        wanted = [concept]
        if kind in ALONG:
            many = round(severity * 11.5 + rng.normal(0, 0.8))
            wanted += [c for c in ALONG[kind][: max(0, many)] if rng.random() >= noise.left_out]
        for each in wanted:
            if each not in mentioned:
                mentioned.add(each)
                say([each], "present", PRESENT)
    denied = [c for c in DENIED if c not in mentioned]
    rng.shuffle(denied)
    while denied and rng.random() < 0.85:
        count = int(rng.integers(1, 4))
        group, denied = denied[:count], denied[count:]
        mentioned.update(group)
        say(group, "absent", ABSENT)
    for status, templates, chance in (("uncertain", UNCERTAIN, 0.18), ("historical", HISTORICAL, 0.15)):
        free = [c for c in ("infarct", "subdural_hematoma", "mass", "contusion", "aneurysm") if c not in mentioned]
        if free and rng.random() < chance:
            concept = str(rng.choice(free))
            mentioned.add(concept)
            say([concept], status, templates)
    lines += [str(s) for s in rng.choice(NEUTRAL, int(rng.integers(1, 4)), replace=False)]
    order = rng.permutation(len(lines))
    reason = str(rng.choice(["Fall.", "Headache.", "Altered mental status.", "Trauma.", "Dizziness.", "Seizure."]))
    body = " ".join(lines[i] for i in order)
    return f"INDICATION: {reason} {age} year old.\nTECHNIQUE: Axial CT without contrast.\nFINDINGS: {body}", statements


def _mistyped(rng: Generator, phrase: str) -> str:
    """Two neighbouring letters of the longest word swapped, or one letter lost, behind its first two."""
    words = phrase.split(" ")
    longest = max(range(len(words)), key=lambda i: len(words[i]))
    word = words[longest]
    if len(word) < 8:
        return phrase
    i = int(rng.integers(2, len(word) - 2))
    if rng.random() < 0.5:
        words[longest] = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    else:
        words[longest] = word[:i] + word[i + 1 :]
    return " ".join(words)
