"""Reports as they are typed and stored: labels do not depend on how lines are broken or a list is numbered."""

from __future__ import annotations

import random
import re
import textwrap
import time
from functools import lru_cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.head_ct.dictation import Noise, dictate
from pipelines.head_ct.labeller import label_text, pipeline
from pipelines.head_ct.phantom import PhantomSettings, _rng, draw_findings
from pipelines.head_ct.sentences import LONGEST, sentences

P, A, U, H = "present", "absent", "uncertain", "historical"

# What people type and systems store, with what it says. Written by hand.
REPORTS = {
    "lines of 72 columns": (
        """CT HEAD WITHOUT CONTRAST

CLINICAL INFORMATION: Fall from standing, on apixaban, GCS 14. Rule out
intracranial haemorrhage.

TECHNIQUE: Helical acquisition from the skull base to the vertex. No
contrast medium.

FINDINGS: There is no evidence of acute intracranial haemorrhage, mass
effect, hydrocephalus, herniation or midline shift. Grey-white
differentiation is preserved. There is mild cerebral atrophy with chronic
small vessel ischaemic change. No skull
fracture. Left parietal scalp
haematoma measuring 5.5 mm.

IMPRESSION:
1. No acute intracranial haemorrhage or skull
   fracture.
2. Left parietal scalp haematoma.
""",
        {"intracranial_hemorrhage": {A, U}, "mass_effect": A, "hydrocephalus": A, "herniation": A, "midline_shift": A,
         "atrophy": P, "small_vessel_disease": P, "skull_fracture": A, "scalp_swelling": P},
    ),
    "list without full stops": (
        "IMPRESSION:\n1. Large left subdural haematoma\n2. Midline shift of 9 mm\n3. No fracture\n4. Uncal herniation\n"
        "5. No hydrocephalus\n6. Effacement of the basal cisterns\n",
        {"subdural_hematoma": P, "midline_shift": P, "skull_fracture": A, "herniation": P, "hydrocephalus": A,
         "cisternal_effacement": P},
    ),
    "numbers touch": (
        "IMPRESSION:\n1.No haemorrhage\n2.Midline shift of 5 mm\n3.Hydrocephalus",
        {"intracranial_hemorrhage": A, "midline_shift": P, "hydrocephalus": P},
    ),
    "one line, numbers touch": (
        "IMPRESSION:1)No haemorrhage2)Midline shift of 5.5 mm3)No fracture4)Hydrocephalus",
        {"intracranial_hemorrhage": A, "midline_shift": P, "skull_fracture": A, "hydrocephalus": P},
    ),
    "dashes touch": (
        "Findings\n-No haemorrhage\n-Midline shift 5 mm\n–Hydrocephalus\n—no fracture",
        {"intracranial_hemorrhage": A, "midline_shift": P, "hydrocephalus": P, "skull_fracture": A},
    ),
    "dashes in a line": (
        "Impression: - no haemorrhage - midline shift of 5 mm - mass effect",
        {"intracranial_hemorrhage": A, "midline_shift": P, "mass_effect": P},
    ),
    "a dash between words": (
        "No acute haemorrhage -midline shift of 4 mm. Old infarct — no new infarction.",
        {"intracranial_hemorrhage": A, "midline_shift": P, "infarct": {H, A}},
    ),
    "sentences touch": (
        "FINDINGS:No haemorrhage.Midline shift of 5 mm.No fracture.Hydrocephalus.",
        {"intracranial_hemorrhage": A, "midline_shift": P, "skull_fracture": A, "hydrocephalus": P},
    ),
    "findings touch": (
        "No haemorrhage,mass effect,or midline shift.Large SDH/SAH;no EDH.Infarct(left MCA),cerebral oedema.",
        {"intracranial_hemorrhage": A, "mass_effect": A, "midline_shift": A, "subdural_hematoma": P,
         "subarachnoid_hemorrhage": P, "epidural_hematoma": A, "infarct": P, "brain_edema": P},
    ),
    "words touch": (
        "No haemorrhageMidline shift of 5 mmNo fracture",
        {"intracranial_hemorrhage": A, "midline_shift": P, "skull_fracture": A},
    ),
    "no full stops": (
        "No acute haemorrhage\nSmall vessel disease\nMidline shift of 5 mm to the left\nNo fracture\nSDH on the right",
        {"intracranial_hemorrhage": A, "small_vessel_disease": P, "midline_shift": P, "skull_fracture": A,
         "subdural_hematoma": P},
    ),
    "no full stops, one line": (
        "FINDINGS: No acute haemorrhage Midline shift of 5 mm There is no fracture Hydrocephalus is present",
        {"intracranial_hemorrhage": A, "midline_shift": P, "skull_fracture": A, "hydrocephalus": P},
    ),
    "upper case, prose": (
        "FINDINGS: THERE IS NO EVIDENCE OF ACUTE INTRACRANIAL HEMORRHAGE, HYDROCEPHALUS OR\nMIDLINE SHIFT. LARGE LEFT "
        "SUBDURAL\nHEMATOMA IS SEEN. NO SPACE-OCCUPYING\nLESION.\nIMPRESSION: SUBDURAL HEMATOMA.",
        {"intracranial_hemorrhage": A, "hydrocephalus": A, "midline_shift": A, "subdural_hematoma": P, "mass": A},
    ),
    "upper case, a finding per line": (
        "FINDINGS\nNO HEMORRHAGE\nMIDLINE SHIFT 5 MM\nNO FRACTURE\nLARGE LEFT SDH\nIMPRESSION\nHYDROCEPHALUS",
        {"intracranial_hemorrhage": A, "midline_shift": P, "skull_fracture": A, "subdural_hematoma": P,
         "hydrocephalus": P},
    ),
    "lower case, a finding per line": (
        "findings:\nno bleed\nmidline shift 5 mm\nno fracture\nlarge left sdh\n",
        {"intracranial_hemorrhage": A, "midline_shift": P, "skull_fracture": A, "subdural_hematoma": P},
    ),
    "lower case, prose": (
        "no bleed. midline shift of 5 mm. no fracture or\nhydrocephalus. large left sdh, approx. 12 mm. no infarct.",
        {"intracranial_hemorrhage": A, "midline_shift": P, "skull_fracture": A, "hydrocephalus": A,
         "subdural_hematoma": P, "infarct": A},
    ),
    "headings run on": (
        "HISTORY: Known aneurysm COMPARISON: None FINDINGS: No hydrocephalus IMPRESSION: Large SDH RECOMMENDATION: MRI "
        "for infarct",
        {"aneurysm": H, "hydrocephalus": A, "subdural_hematoma": P},
    ),
    "headings without colons": (
        "INDICATION\nstroke?\n\nFINDINGS\nNo hydrocephalus.\n\nIMPRESSION\nDense MCA on the left.",
        {"infarct": U, "hydrocephalus": A, "dense_vessel": P},
    ),
    "headings touch": (
        "INDICATION:r/o SDH.FINDINGS:No fracture.IMPRESSION:No SDH.",
        {"subdural_hematoma": {U, A}, "skull_fracture": A},
    ),
    "no heading after the question": (
        "CLINICAL INFORMATION: Fall, bleed?\n\nLarge left subdural haematoma. No fracture.",
        {"intracranial_hemorrhage": U, "subdural_hematoma": P, "skull_fracture": A},
    ),
    "a form": (
        "Haemorrhage: none\nMidline shift: 5 mm\nFracture: no\nHydrocephalus: absent\nInfarct: acute, left MCA\nMass: nil",
        {"intracranial_hemorrhage": A, "midline_shift": P, "skull_fracture": A, "hydrocephalus": A, "infarct": P,
         "mass": A},
    ),
    "a form with dashes and dots": (
        "Haemorrhage - none\nMidline shift - 5 mm\nFracture ..... none\nHydrocephalus - not seen\nMass effect - yes",
        {"intracranial_hemorrhage": A, "midline_shift": P, "skull_fracture": A, "hydrocephalus": A, "mass_effect": P},
    ),
    "contractions": (
        "Hydrocephalus isn't seen. There aren't any fractures. CT doesn't show a mass. Midline shift wasn't identified. "
        "SAH can't be excluded. The SDH hasn't resolved. There isn’t an infarct.",
        {"hydrocephalus": A, "skull_fracture": A, "mass": A, "midline_shift": A, "subarachnoid_hemorrhage": U,
         "subdural_hematoma": P, "infarct": A},
    ),
    "contractions without their apostrophe": (
        "Hydrocephalus isnt seen. There arent any fractures. CT doesn t show a mass. SAH cant be excluded.",
        {"hydrocephalus": A, "skull_fracture": A, "mass": A, "subarachnoid_hemorrhage": U},
    ),
    "short forms": (
        "Small SDH w/o midline shift. Neg for fracture. No e/o hydrocephalus. Neg. for mass. h/o infarct. "
        "S/p evacuation of EDH. Findings c/f SAH. Nil contusion. W/o herniation.",
        {"subdural_hematoma": P, "midline_shift": A, "skull_fracture": A, "hydrocephalus": A, "mass": A, "infarct": H,
         "epidural_hematoma": H, "subarachnoid_hemorrhage": U, "contusion": A, "herniation": A},
    ),
    "r/o in the question": ("INDICATION: Headache, r/o SAH, R/O mass.", {"subarachnoid_hemorrhage": U, "mass": U}),
    "question marks": (
        "?SAH. ? Small contusion. Fracture (?) of the skull base. Infarct?? No mass.",
        {"subarachnoid_hemorrhage": U, "contusion": U, "skull_fracture": U, "infarct": U, "mass": A},
    ),
    "invisible characters": (
        "\ufeffNo hemor\u00adrhage or mid\u200bline\u00a0shift.\u2028Large sub\u2060dural\u3000hema\u200dtoma. No\u00a0frac\u00adture.",
        {"intracranial_hemorrhage": A, "midline_shift": A, "subdural_hematoma": P, "skull_fracture": A},
    ),
    "ligatures, wide letters and accents": (
        "No hæmorrhage. Cerebral œdema. In\ufb01ltrating glioma, ef\ufb00acement of the sulci. Ｎｏ　ｆｒａｃｔｕｒｅ．",
        {"intracranial_hemorrhage": A, "brain_edema": P, "mass": P, "sulcal_effacement": P, "skull_fracture": A},
    ),
    "words divided at the end of a line": (
        "No evidence of intra-\ncranial hemor-\nrhage. Large sub-\ndural hematoma with mid-\nline shift. No space-\n"
        "occupying lesion. Extra-\naxial collection is not seen.",
        {"intracranial_hemorrhage": A, "subdural_hematoma": P, "midline_shift": P, "mass": A},
    ),
    "numbers with points and units": (
        "Midline shift of 5.5 mm. SDH of 1.2 x 3.4 cm without mass effect. Mass of 10 mm. in diameter. No shift > 2.5 mm "
        "or hydrocephalus.",
        {"midline_shift": P, "subdural_hematoma": P, "mass_effect": A, "mass": P, "hydrocephalus": A},
    ),
    "abbreviations with points": (
        "No haemorrhage, e.g. subdural, i.e. no SDH or approx. 3 mm of midline shift. L. MCA infarct. S.A.H. is seen "
        "vs. artefact. No mass, etc. Hydrocephalus is present.",
        {"intracranial_hemorrhage": A, "subdural_hematoma": A, "midline_shift": A, "infarct": P,
         "subarachnoid_hemorrhage": U, "mass": A, "hydrocephalus": P},
    ),
    "carriage returns": (
        "No haemorrhage or\rmidline shift.\rLarge infarct.\r\n\r\nNo\r\nfracture.\r\r\nHydrocephalus.",
        {"intracranial_hemorrhage": A, "midline_shift": A, "infarct": P, "skull_fracture": A, "hydrocephalus": P},
    ),
    "stored by other programs": (
        "No haemorrhage or\\nmidline shift.<br>Large&nbsp;infarct.\\.br\\No_x000D_\nfracture. It isnâ€™t hydrocephalus.",
        {"intracranial_hemorrhage": A, "midline_shift": A, "infarct": P, "skull_fracture": A, "hydrocephalus": A},
    ),
    "bullets of a word processor": (
        "\uf0b7\tNo haemorrhage\n\uf0b7\tMidline shift of 5 mm\n• No fracture\n•Hydrocephalus\n* No mass\n*Infarct",
        {"intracranial_hemorrhage": A, "midline_shift": P, "skull_fracture": A, "hydrocephalus": P, "mass": A,
         "infarct": P},
    ),
    "a list that is denied": (
        "There is no evidence of:\n1. haemorrhage\n2. hydrocephalus\n3) midline shift\n\nLarge infarct.",
        {"intracranial_hemorrhage": A, "hydrocephalus": A, "midline_shift": A, "infarct": P},
    ),
    "a list that is denied, by lines": (
        "Negative for:\nhaemorrhage\nhydrocephalus\nmidline shift\n\nLarge infarct.",
        {"intracranial_hemorrhage": A, "hydrocephalus": A, "midline_shift": A, "infarct": P},
    ),
    "a blank line ends a sentence": (
        "No haemorrhage\n\nmidline shift of 5 mm\n\n\nno fracture\n \nhydrocephalus",
        {"intracranial_hemorrhage": A, "midline_shift": P, "skull_fracture": A, "hydrocephalus": P},
    ),
    "an item goes on in the next line": (
        "1. No haemorrhage or\n   midline shift\n2. Small infarct of the\n   left MCA\n3. No hydrocephalus, mass or\nfracture",
        {"intracranial_hemorrhage": A, "midline_shift": A, "infarct": P, "hydrocephalus": A, "mass": A,
         "skull_fracture": A},
    ),
    "names with a capital after a break": (
        "No haemorrhage in the left\nSylvian fissure or\nSAH. There is no occluded\nMCA or infarct of the\nGalen vein.",
        {"intracranial_hemorrhage": A, "subarachnoid_hemorrhage": A, "infarct": A},
    ),
    "page break": (
        "No evidence of\fhaemorrhage or\n\fPage 2 of 3\nmidline shift.",
        {"intracranial_hemorrhage": A, "midline_shift": P},
    ),
    "Markdown": (
        "## FINDINGS\n**No haemorrhage.** Midline shift of *5 mm*.\n## IMPRESSION:\n* __No fracture__\n* Hydrocephalus",
        {"intracranial_hemorrhage": A, "midline_shift": P, "skull_fracture": A, "hydrocephalus": P},
    ),
    "double spaced": (
        "FINDINGS: There is no evidence of an acute intracranial haemorrhage,\n\nhydrocephalus, herniation or other "
        "abnormality that would need\n\ntreatment, nor is there any displacement of the falx, mass\n\neffect or midline "
        "shift. A fracture of the left temporal bone\n\nis seen.",
        {"intracranial_hemorrhage": A, "hydrocephalus": A, "herniation": A, "mass_effect": A, "midline_shift": A,
         "skull_fracture": P},
    ),
    "every line is 24 characters": (
        "No evidence of acute int\nracranial haemorrhage, h\nydrocephalus or midline \nshift. Large subdural ha\nematoma on "
        "the left.",
        {"intracranial_hemorrhage": A, "hydrocephalus": A, "midline_shift": A, "subdural_hematoma": P},
    ),
}  # fmt: skip


def said(text):
    return {(m.concept, m.status) for m in label_text(text)}


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_as_it_is_typed(name):
    text, says = REPORTS[name]
    assert said(text) == {(c, s) for c, status in says.items() for s in (status if isinstance(status, set) else {status})}
