"""Concepts and their status in hand-written sentences, dictated reports, and tables of reports."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from pipelines.head_ct.labeller import (
    THRESHOLDS,
    agreement,
    critical_counts,
    label_reports,
    label_text,
    one_error_apart,
    plain_form,
    read_lexicon,
    read_terms,
    silver_columns,
)
from pipelines.head_ct.phantom.dictation import PHRASES, Noise, dictate
from pipelines.shared.errors import DataError

P, A, U, H = "present", "absent", "uncertain", "historical"
# (sentence, what it says). Written by hand; what radiologists say, and what is known to mislead rules.
SENTENCES = [
    ("Large left subdural hematoma with 8 mm of midline shift.", {"subdural_hematoma": P, "midline_shift": P}),
    ("No acute haemorrhage or midline shift, but there is a small subdural.",
     {"intracranial_hemorrhage": A, "midline_shift": A, "subdural_hematoma": P}),
    ("Cannot exclude a small subarachnoid haemorrhage.", {"subarachnoid_hemorrhage": U}),
    ("Subarachnoid haemorrhage cannot be excluded.", {"subarachnoid_hemorrhage": U}),
    ("Hydrocephalus is not seen.", {"hydrocephalus": A}),
    ("Midline shift is absent.", {"midline_shift": A}),
    ("The previously seen subdural hematoma has resolved.", {"subdural_hematoma": A}),
    ("The subdural hematoma has not resolved.", {"subdural_hematoma": P}),
    ("No evidence of fracture; subdural hematoma on the right.", {"skull_fracture": A, "subdural_hematoma": P}),
    ("No mass effect despite a large infarct.", {"mass_effect": A, "infarct": P}),
    ("No change in the subdural haematoma.", {"subdural_hematoma": P}),
    ("No significant interval change in size of the epidural hematoma.", {"epidural_hematoma": P}),
    ("No increase in midline shift.", {"midline_shift": P}),
    ("There is no longer any mass effect.", {"mass_effect": A}),
    ("No history of hemorrhage.", {"intracranial_hemorrhage": A}),
    ("History of epidural hematoma.", {"epidural_hematoma": H}),
    ("Status post evacuation of subdural hematoma.", {"subdural_hematoma": H}),
    ("Old infarct in the left MCA territory.", {"infarct": H}),
    ("Chronic right cerebellar infarct.", {"infarct": H}),
    ("Old infarct on the left; acute infarct on the right.", {"infarct": {H, P}}),
    ("Acute on chronic subdural hematoma.", {"subdural_hematoma": P}),
    ("Possible old infarct.", {"infarct": U}),
    ("?SAH", {"subarachnoid_hemorrhage": U}),
    ("Query small contusion in the right frontal lobe.", {"contusion": U}),
    ("Artifact versus small hemorrhage along the tentorium.", {"intracranial_hemorrhage": U}),
    ("Hyperdense MCA concerning for acute infarct.", {"dense_vessel": P, "infarct": U}),
    ("Hemorrhage is unlikely.", {"intracranial_hemorrhage": U}),
    ("Findings suspicious for abscess.", {"abscess": U}),
    ("Intracranial mass is suspected.", {"mass": U}),
    ("INDICATION: Rule out hemorrhage. FINDINGS: No fracture.", {"intracranial_hemorrhage": U, "skull_fracture": A}),
    ("HISTORY: Known aneurysm.\nFINDINGS: Hydrocephalus.", {"aneurysm": H, "hydrocephalus": P}),
    ("CLINICAL INFORMATION: stroke?\nIMPRESSION: Normal head CT.", {"infarct": U}),
    ("RECOMMENDATION: repeat CT if subdural hematoma is suspected.", {}),
    ("Hydrocephalus: none.", {"hydrocephalus": A}),
    ("Fracture: negative.", {"skull_fracture": A}),
    ("Neither hemorrhage nor infarct is present.", {"intracranial_hemorrhage": A, "infarct": A}),
    ("No mass, mass effect or midline shift.", {"mass": A, "mass_effect": A, "midline_shift": A}),
    ("No acute hemorrhage, infarct, mass effect, hydrocephalus, or fracture.",
     {"intracranial_hemorrhage": A, "infarct": A, "mass_effect": A, "hydrocephalus": A, "skull_fracture": A}),
    ("No hemorrhage, small subdural collection is seen.", {"intracranial_hemorrhage": A, "subdural_hematoma": P}),
    ("No abnormality other than a small subdural hematoma.", {"subdural_hematoma": P}),
    ("Unremarkable except for an epidural hematoma.", {"epidural_hematoma": P}),
    ("Without evidence of fractures or intracranial bleeding.", {"skull_fracture": A, "intracranial_hemorrhage": A}),
    ("Negative for acute intracranial hemorrhage.", {"intracranial_hemorrhage": A}),
    ("Absence of hydrocephalus.", {"hydrocephalus": A}),
    ("Fracture has been ruled out.", {"skull_fracture": A}),
    ("Fracture is not excluded.", {"skull_fracture": U}),
    ("This does not exclude venous thrombosis.", {"venous_thrombosis": U}),
    ("Not only an epidural but also a subdural hematoma.", {"epidural_hematoma": P, "subdural_hematoma": P}),
    ("Intraparenchymal haemorrage in the right frontal lobe.", {"intraparenchymal_hemorrhage": P}),
    ("Subarachniod blood in the left sylvian fissure.", {"subarachnoid_hemorrhage": P}),
    ("Hydrocephlus with transependymal oedema.", {"hydrocephalus": P, "transependymal_edema": P}),
    ("Cerebral oedema with effacement of the basal cisterns.", {"brain_edema": P, "cisternal_effacement": P}),
    ("Bilateral SDHs.", {"subdural_hematoma": P}),
    ("Multiple metastases with surrounding oedema.", {"mass": P, "brain_edema": P}),
    ("Large scalp hematoma without underlying fracture.", {"scalp_swelling": P, "skull_fracture": A}),
    ("Chronic microvascular change; no acute infarct.", {"small_vessel_disease": P, "infarct": A}),
    ("Nasal bone fracture.", {"nasal_fracture": P}),
    ("Mucosal thickening of the maxillary sinuses.", {"sinus_disease": P}),
    ("Extra-axial: no extradural haematoma.", {"epidural_hematoma": A}),
    ("Pneumocephalus, compared to prior, has increased.", {"pneumocephalus": P}),
    ("Subdural hematoma is smaller than on the prior study.", {"subdural_hematoma": P}),
    ("No evidence that the hematoma has resolved.", {"intracranial_hemorrhage": P}),
    ("Intraventricular hemorrhage, however, no hydrocephalus.",
     {"intraventricular_hemorrhage": P, "hydrocephalus": A}),
    ("A fracture is not identified.", {"skull_fracture": A}),
    ("45 year old man with headache.", {}),
    ("The ventricles are normal; no shift of the midline structures.", {"midline_shift": A}),
    ("Uncal herniation is imminent and cerebral edema is present.", {"herniation": P, "brain_edema": P}),
    ("Blood in the lateral ventricles.", {"intraventricular_hemorrhage": P}),
    ("Post-traumatic contusion of the temporal pole.", {"contusion": P}),
    ("Denies trauma. No bleed.", {"intracranial_hemorrhage": A}),
    ("Aneurysm was treated in 2010.", {"aneurysm": H}),
    ("Subdural hematoma may represent rebleeding.", {"subdural_hematoma": P, "active_bleeding": U}),
    ("If there is hemorrhage, follow up.", {"intracranial_hemorrhage": U}),
    ("Hemorrhagic transformation of the infarct is not present.", {"hemorrhagic_transformation": A, "infarct": A}),
    ("No midline shift. Mass effect on the left lateral ventricle.", {"midline_shift": A, "mass_effect": P}),
]  # fmt: skip
# What the rules get wrong, so that nobody has to find out: (sentence, what it says, what is found).
KNOWN_ERRORS = [
    ("No hemorrhage and large infarct on the left.", {"intracranial_hemorrhage": A, "infarct": P}, {"infarct": A}),
    ("The midline is not shifted.", {"midline_shift": A}, {}),
    ("Father died of a subarachnoid hemorrhage.", {}, {"subarachnoid_hemorrhage": P}),
    ("We discussed that hemorrhage would need surgery.", {}, {"intracranial_hemorrhage": P}),
]


def said(sentence):
    found = {}
    for mention in label_text(sentence):
        found.setdefault(mention.concept, set()).add(mention.status)
    return found


def expected(says):
    return {concept: set(status) if isinstance(status, set) else {status} for concept, status in says.items()}


def test_there_are_enough_tricky_sentences():
    assert len(SENTENCES) >= 60
    assert len({s for s, _ in SENTENCES}) == len(SENTENCES)


@pytest.mark.parametrize(("sentence", "says"), SENTENCES)
def test_a_tricky_sentence(sentence, says):
    assert said(sentence) == expected(says)


@pytest.mark.parametrize(("sentence", "truth", "found"), KNOWN_ERRORS)
def test_known_errors_are_still_errors(sentence, truth, found):
    """When one of these is right, move it up."""
    assert said(sentence) != expected(truth)
    for concept, status in expected(found).items():
        assert said(sentence).get(concept) == status


def test_spans_are_places_in_the_text():
    text = "FINDINGS: Large  subdural\nhematoma/edema."
    assert [text[m.start : m.end] for m in label_text(text)] == ["subdural\nhematoma", "edema"]
    text = "No hemor-\nrhage, mid\u200bline shift or e\ufb00aced sul\u00adci."
    assert [text[m.start : m.end] for m in label_text(text)] == [
        "hemor-\nrhage", "mid\u200bline shift", "e\ufb00aced sul\u00adci",
    ]  # fmt: skip
    assert label_text("") == []
    assert label_text(" \n ") == []


def test_one_error_in_long_words_is_forgiven_and_short_words_are_not():
    assert one_error_apart("hemorrhage", "hemorrage")
    assert one_error_apart("subdural", "sudbural")
    assert one_error_apart("fracture", "fracturre")
    assert not one_error_apart("fracture", "fratcuer")
    assert plain_form("Haematomas") == "hematoma"
    assert plain_form("metastases") == "metastasis"
    assert plain_form("sinus") == "sinus"
    assert said("The mast is massive and the SAHARA is dry.") == {}


def test_dictated_reports_are_understood():
    """Precision and recall of at least 0.95 for phrasings of the lexicon; those outside it are missed, not mistaken."""
    rows, truth = [], []
    rng = np.random.default_rng(5)
    kinds = ["epidural", "subdural", "subarachnoid", "intraparenchymal", "infarct", "mass", "fracture", "hydrocephalus"]
    for i in range(150):
        findings = [(str(rng.choice(kinds)), float(rng.random()))] if i % 2 else []
        text, statements = dictate(rng, findings, Noise(), 50)
        rows.append((str(i), text))
        truth += [(str(i), s.concept, s.status, s.known) for s in statements]
    found = label_reports(pd.DataFrame(rows, columns=["id", "text"]))
    real = pd.DataFrame(truth, columns=["id", "concept", "status", "known"])
    table = agreement(found, real)
    seen = agreement(found, real[real["known"]])
    assert table["tp"].sum() / (table["tp"] + table["fp"]).sum() >= 0.95
    assert seen["tp"].sum() / (seen["tp"] + seen["fn"]).sum() >= 0.95
    for status, part in seen.groupby("status"):
        assert part["tp"].sum() / (part["tp"] + part["fp"]).sum() >= 0.9, status
        assert part["tp"].sum() / (part["tp"] + part["fn"]).sum() >= 0.9, status
    assert (table["unseen_missed"].sum() / table["fn"].sum()) > 0.8
    assert 0.1 < 1 - real["known"].mean() < 0.25


def test_every_listed_phrasing_is_in_the_lexicon():
    for concept, phrases in PHRASES.items():
        for phrase in phrases:
            assert said(f"There is {phrase}.") == {concept: {P}}, phrase


def test_counts_are_of_distinct_present_critical_concepts():
    reports = pd.DataFrame(
        {
            "id": ["a", "b", "c"],
            "text": [
                "Subdural hematoma. SDH. Mass effect. Midline shift. Hydrocephalus. Atrophy. No fracture.",
                "Atrophy. Possible infarct. Old hemorrhage.",
                "",
            ],
        }
    )
    counts = critical_counts(label_reports(reports), ["a", "b", "c"])
    assert counts.tolist() == [4, 0, 0]
    silver = silver_columns(counts)
    assert silver["silver_4"].tolist() == [1, 0, 0]
    assert silver["silver_8"].sum() == 0
    assert THRESHOLDS == [4, 8, 10]


def test_lexicon_and_terms_of_ones_own(tmp_path):
    own = tmp_path / "lexicon.yaml"
    entry = {"umls": None, "group": "x", "critical": True, "synonyms": ["zebra sign"]}
    own.write_text(yaml.safe_dump({"concepts": {"zebra": entry}}))
    (mention,) = label_text("A zebra sign is seen.", own)
    assert mention.concept == "zebra"
    assert len(read_lexicon()) >= 40
    assert {"absent", "uncertain", "historical", "termination", "sections"} <= set(read_terms())


@pytest.mark.slow
@pytest.mark.parametrize("read", [read_lexicon, read_terms])
@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 3000, b"a: [", b"", b"- 1"])
def test_a_damaged_lexicon_is_named(tmp_path, read, content):
    file = tmp_path / "damaged.yaml"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged\.yaml cannot be read"):
        read(file)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"concepts": {"a": {"group": "x"}}}, "a: wants the keys"),
        ({"concepts": {"a": {"umls": None, "group": "x", "critical": "yes", "synonyms": []}}}, "true or false"),
        ({"concept": {}}, "KeyError"),
    ],
)
def test_a_wrong_lexicon_is_named(tmp_path, content, named):
    file = tmp_path / "l.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(DataError, match=named):
        read_lexicon(file)
    both = {k: {"umls": None, "group": "x", "critical": True, "synonyms": ["same"]} for k in "ab"}
    file.write_text(yaml.safe_dump({"concepts": both}))
    with pytest.raises(DataError, match="also belongs to"):
        read_lexicon(file)
