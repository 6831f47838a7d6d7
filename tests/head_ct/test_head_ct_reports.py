"""Reports as they are typed and stored: labels do not depend on how lines are broken or a list is numbered."""

from __future__ import annotations

import random
import re
import textwrap
import time
from functools import lru_cache

import pandas as pd
import pytest
from conftest import phantom_settings
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.head_ct.labeller import LONGEST as LONGEST_REPORT
from pipelines.head_ct.labeller import label_reports, label_text, pipeline
from pipelines.head_ct.phantom.dataset import _rng, draw_findings
from pipelines.head_ct.phantom.dictation import Noise, dictate
from pipelines.head_ct.predicting import table_of_reports
from pipelines.head_ct.sentences import LONGEST, sentences
from pipelines.shared.errors import DataError

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
        "Haemorrhage: none\nMidline shift: 5 mm\nFracture: no\nHydrocephalus: absent\nInfarct: acute, left MCA\n"
        "Mass: nil",
        {"intracranial_hemorrhage": A, "midline_shift": P, "skull_fracture": A, "hydrocephalus": A, "infarct": P,
         "mass": A},
    ),
    "a form with dashes and dots": (
        "Haemorrhage - none\nMidline shift - 5 mm\nFracture ..... none\nHydrocephalus - not seen\nMass effect - yes",
        {"intracranial_hemorrhage": A, "midline_shift": P, "skull_fracture": A, "hydrocephalus": A, "mass_effect": P},
    ),
    "a form in columns": (
        "Haemorrhage      No\nMidline shift    5 mm\nFracture\tnone\nHydrocephalus\tYes\nMass      absent",
        {"intracranial_hemorrhage": A, "midline_shift": P, "skull_fracture": A, "hydrocephalus": P, "mass": A},
    ),
    "contractions": (
        "Hydrocephalus isn't seen. There aren't any fractures. CT doesn't show a mass. Midline shift wasn't seen. "
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
    "a dash that explains": (
        "No bleed – subdural, epidural or subarachnoid – is seen. No mass - glioma or metastasis. Normal - no infarct.",
        {"intracranial_hemorrhage": A, "subdural_hematoma": A, "epidural_hematoma": A, "mass": A, "infarct": A},
    ),
    "questions and answers": (
        "Is there SDH? No. Infarct? Yes. Fracture? none\nHydrocephalus?",
        {"subdural_hematoma": A, "infarct": P, "skull_fracture": A, "hydrocephalus": U},
    ),
    "outline numbers": (
        "1.1 No SDH\n1.2 Fracture\n1.2.1. No infarct\n2 Midline shift of\n5.5 mm",
        {"subdural_hematoma": A, "skull_fracture": P, "infarct": A, "midline_shift": P},
    ),
    "a measure after a comma": (
        "No haemorrhage, 5 mm midline shift. Infarct, 12 mm, not seen before. Neg.for fx, no MLS.",
        {"intracranial_hemorrhage": A, "midline_shift": {P, A}, "infarct": A, "skull_fracture": A},
    ),
    "upper case, a full stop at the end": (
        "NO SDH\nNO FRACTURE\nHYDROCEPHALUS IS PRESENT.",
        {"subdural_hematoma": A, "skull_fracture": A, "hydrocephalus": P},
    ),
    "invisible characters": (
        "\ufeffNo hemor\u00adrhage or mid\u200bline\u00a0shift.\u2028"
        "Large sub\u2060dural\u3000hema\u200dtoma. No\u00a0frac\u00adture.",
        {"intracranial_hemorrhage": A, "midline_shift": A, "subdural_hematoma": P, "skull_fracture": A},
    ),
    "ligatures, wide letters and accents": (
        "No hæmorrhage. Cerebral œdema. In\ufb01ltrating glioma, ef\ufb00acement of the sulci. "
        "Ｎｏ　ｆｒａｃｔｕｒｅ．",
        {"intracranial_hemorrhage": A, "brain_edema": P, "mass": P, "sulcal_effacement": P, "skull_fracture": A},
    ),
    "words divided at the end of a line": (
        "No evidence of intra-\ncranial hemor-\nrhage. Large sub-\ndural hematoma with mid-\nline shift. No space-\n"
        "occupying lesion. Extra-\naxial collection is not seen.",
        {"intracranial_hemorrhage": A, "subdural_hematoma": P, "midline_shift": P, "mass": A},
    ),
    "numbers with points and units": (
        "Midline shift of 5.5 mm. SDH of 1.2 x 3.4 cm without mass effect. Mass of 10 mm. in diameter. No shift > 2.5 "
        "mm or hydrocephalus.",
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
        "No haemorrhage or\\nmidline shift.<br>Large&nbsp;infarct.\\.br\\No_x000D_\nfracture. "
        "It isnâ€™t hydrocephalus.",
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
        "1. No haemorrhage or\n   midline shift\n2. Small infarct of the\n   left MCA\n"
        "3. No hydrocephalus, mass or\nfracture",
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
        "abnormality that would need\n\ntreatment, nor is there any displacement of the falx, mass\n\neffect or "
        "midline shift. A fracture of the left temporal bone\n\nis seen.",
        {"intracranial_hemorrhage": A, "hydrocephalus": A, "herniation": A, "mass_effect": A, "midline_shift": A,
         "skull_fracture": P},
    ),
    "every line is 24 characters": (
        "No evidence of acute int\nracranial haemorrhage, h\nydrocephalus or midline \nshift. Large subdural ha\n"
        "ematoma on the left.",
        {"intracranial_hemorrhage": A, "hydrocephalus": A, "midline_shift": A, "subdural_hematoma": P},
    ),
}  # fmt: skip


def said(text):
    return {(m.concept, m.status) for m in label_text(text)}


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_as_it_is_typed(name):
    text, says = REPORTS[name]
    assert said(text) == {
        (c, s) for c, status in says.items() for s in (status if isinstance(status, set) else {status})
    }


# --- every report of the phantom, broken and numbered in other ways ---

REPORT_COUNT = phantom_settings("head_ct").studies
ROMAN = re.findall(r"\w+", "i ii iii iv v vi vii viii ix x xi xii xiii xiv xv xvi xvii xviii xix xx")
MARKS = {
    "1. ": "{n}. ", "1.": "{n}.", "1) ": "{n}) ", "1)": "{n})", "(1)": "({n})", "[1] ": "[{n}] ", "1.) ": "{n}.) ",
    "01. ": "{n:02}. ", "#1 ": "#{n} ", "1 ": "{n} ", "1: ": "{n}: ", "1-": "{n}-", "1 - ": "{n} - ", "a. ": "{a}. ",
    "a)": "{a})", "(a) ": "({a}) ", "A. ": "{A}. ", "i. ": "{i}. ", "(i)": "({i})", "ii) ": "{i}) ",
    "- ": "- ", "-": "-", "–": "–", "• ": "• ", "•": "•", "* ": "* ", "*": "*", "+ ": "+ ", "o ": "o ",
    "word's": "\uf0b7\t", "circled": "{c} ",
}  # fmt: skip


@lru_cache(maxsize=REPORT_COUNT)
def phantom_report(number, typing=0.04):
    """The phantom's report of this number, as it was dictated: sentences with full stops, one blank between them."""
    phantom = phantom_settings("head_ct")
    rng = _rng(phantom, "findings", number)
    critical = number % 2 == 0 if number < phantom.gold else bool(rng.random() < phantom.critical)
    findings = [(f.kind, f.severity) for f in draw_findings(rng, critical)]
    return dictate(_rng(phantom, "report", number), findings, Noise(phantom.unseen, typing), 50)[0]


@lru_cache(maxsize=REPORT_COUNT)
def labels_as_dictated(number):
    return said(phantom_report(number))


def sentences_of(report):
    head, body = report.split("FINDINGS: ")
    return head + "FINDINGS:", re.split(r"(?<=\.) (?=[A-Z?])", body)


def as_list(report, mark, between="\n", points=True):
    """The findings as a list; `points`: whether its items keep their full stops."""
    head, items = sentences_of(report)
    marked = []
    for i, item in enumerate(items):
        names = {
            "n": i + 1,
            "a": chr(97 + i % 26),
            "A": chr(65 + i % 26),
            "i": ROMAN[i % 20],
            "c": chr(0x2460 + i % 20),
        }
        marked.append(MARKS[mark].format(**names) + (item if points else item.rstrip(".")))
    return head + between + between.join(marked)


def wrapped(report, width, line_end="\n"):
    lines = [textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) for line in report.split("\n")]
    return line_end.join(piece for line in lines for piece in line)


def with_blanks(report, rng):
    """Every blank replaced by some other blank, some of them by line breaks."""
    blanks = [
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\r",
        " \n\t",
        "\x0b",
        "\f",
        "\x85",
        "\u00a0",
        "\u2003",
        "\u2028",
        "\u3000",
    ]
    return re.sub(" ", lambda m: rng.choice(blanks), report)


def with_invisible(report, rng):
    return "".join(c + rng.choice(["", "", "\u200b", "\u00ad", "\u2060", "\ufeff", "\u200d"]) for c in report)


def divided(report, rng):
    """Long words divided at the end of a line."""

    def divide(match):
        word, at = match.group(), rng.randint(3, len(match.group()) - 3)
        return word[:at] + "-\n" + word[at:]

    return re.sub(r"[a-z]{7,}", divide, report)


def cut(report, width):
    """Lines of a fixed number of characters, as old systems store them."""
    return "\n".join(line[i : i + width] for line in report.split("\n") for i in range(0, len(line), width))


WAYS = {
    "lines of 18": lambda t, rng: wrapped(t, 18),
    "lines of 40": lambda t, rng: wrapped(t, 40, "\r\n"),
    "lines of 72": lambda t, rng: wrapped(t.replace("\n", " "), 72),
    "a word per line": lambda t, rng: t.replace(" ", "\n"),
    "other blanks": with_blanks,
    "no blanks between sentences": lambda t, rng: re.sub(r"(?<=[.:]) ", "", t),
    "blank lines between sentences": lambda t, rng: "\n\n".join([sentences_of(t)[0], *sentences_of(t)[1]]),
    "a sentence per line": lambda t, rng: "\n".join([sentences_of(t)[0], *sentences_of(t)[1]]),
    "upper case": lambda t, rng: wrapped(t.upper(), 50),
    "lower case": lambda t, rng: wrapped(t.lower(), 50),
    "invisible characters": with_invisible,
    "cut after 48 characters": lambda t, rng: cut(t, 48),
    "HTML": lambda t, rng: "<p>" + wrapped(t, 60, "<br/>") + "</p>",
    "HL7": lambda t, rng: wrapped(t, 60, "\\.br\\"),
}


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    number=st.integers(0, REPORT_COUNT - 1),
    width=st.integers(12, 120),
    line_end=st.sampled_from(["\n", "\r\n", "\r", " \n", "\u2028", "\f"]),
    mark=st.sampled_from(sorted(MARKS)),
)
@example(number=0, width=72, line_end="\n", mark="1.")
def test_labels_do_not_depend_on_lines_and_numbers(number, width, line_end, mark):
    assert said(wrapped(phantom_report(number), width, line_end)) == labels_as_dictated(number)
    assert said(wrapped(as_list(phantom_report(number), mark), width, line_end)) == labels_as_dictated(number)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_way_of_storing(way):
    rng = random.Random(way)
    for number in range(rng.randrange(60), REPORT_COUNT, 60):
        assert said(WAYS[way](phantom_report(number), rng)) == labels_as_dictated(number), number


@pytest.mark.slow
@pytest.mark.parametrize("mark", MARKS)
def test_a_way_of_numbering(mark):
    """With and without full stops, also on one line."""
    for number in range(len(mark) * 7, REPORT_COUNT, 120):
        report = phantom_report(number)
        if re.search(r"\?[a-z]+ [A-Z]", report):
            continue  # "?infarct" has no full stop to begin with
        for points, between in [(True, "\n"), (True, " "), (False, "\n")]:
            assert said(as_list(report, mark, between, points)) == labels_as_dictated(number), (number, points, between)


@pytest.mark.slow
def test_words_divided_at_the_end_of_a_line():
    """In words without a typing error: two errors in one word are too many."""
    rng = random.Random(0)
    for number in range(0, REPORT_COUNT, 30):
        report = phantom_report(number, 0.0)
        assert said(divided(report, rng)) == said(report), number


@pytest.mark.slow
def test_a_thirtieth_of_all_reports_of_the_phantom():
    """Each in one of all ways, or as a list; the tests above take every way and mark by itself."""
    rng = random.Random(1)
    marks = sorted(MARKS)
    for number in range(1, REPORT_COUNT, 31):  # odd: every second one is a list
        report, right = phantom_report(number), labels_as_dictated(number)
        way, mark, width = rng.choice(sorted(WAYS)), rng.choice(marks), rng.randint(12, 120)
        stored = WAYS[way](report, rng) if number % 2 else wrapped(as_list(report, mark), width)
        assert said(stored) == right, (number, way, mark, width)


ODD = st.sampled_from(
    [
        *"\n\n\r\t .,;:?!()-*•+/'\"<>&\u00ad\u200b\u2028\ufb01\ufdfa①½",
        "no",
        "SDH",
        "1.",
        "a)",
        "IMPRESSION:",
        "n't",
        "or",
    ]
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@example("(?")
@example("a?é")
@given(st.one_of(st.text(max_size=80), st.lists(ODD, max_size=40).map("".join)))
def test_any_text_is_read_and_places_lie_in_it(text):
    for mention in label_text(text):
        assert 0 <= mention.start < mention.end <= len(text)


# --- size ---


@pytest.mark.slow
def test_time_grows_with_the_length_and_not_faster():
    """Twenty times the text may take forty times as long; a report of 80 kB took 18 s."""
    text = " ".join(phantom_report(i) for i in range(6))
    label_text(text)
    for words in (text, re.sub(r"[.\n:]", " ", text)):
        began = time.process_time()
        label_text(words)
        once = time.process_time() - began
        began = time.process_time()
        label_text(" ".join([words] * 20))
        assert time.process_time() - began < 40 * once + 1


PIECES = [
    " ",
    "\t",
    "\n",
    "\r",
    "\xad",
    "A.",
    "- ",
    "1) ",
    "(",
    "no ",
    "a: ",
    "?",
    ".",
    "=",
    "<p",
    "<",
    "SDH ",
    "no: - ",
]


@pytest.mark.parametrize("piece", PIECES)
def test_no_text_takes_long(piece):
    """What would take minutes if a step looked from every place at all the rest of the text."""
    began = time.process_time()
    label_text(piece * (15_000 // len(piece)))
    assert time.process_time() - began < 15


def test_negation_reaches_as_far_as_a_sentence_may():
    text = "no " + "really " * (LONGEST + 5) + "hydrocephalus " + "really " * LONGEST
    tools = pipeline()
    assert [len(s.text.split()) for s in sentences(text, tools.sections, tools.words)] == [LONGEST, LONGEST, 7]
    assert said(text) == {("hydrocephalus", P)}
    assert said("no " + "really " * (LONGEST - 5) + "hydrocephalus") == {("hydrocephalus", A)}


def test_a_text_that_is_no_report_is_named():
    table = pd.DataFrame({"id": ["row 2", "row 3"], "text": ["No bleed.", "No bleed. " * (LONGEST_REPORT // 10 + 1)]})
    with pytest.raises(DataError, match=r"(?s)1 reports.*row 3: 200,010 characters"):
        label_reports(table)
    assert len(label_reports(table[:1])) == 1


# --- tables of reports ---


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"id,report\n", "no rows"),
        (b"", "cannot be read as a table"),
        (b"id,report\na,\nb,  \n", "the column 'report' is empty in every row"),
        (b"id,findings\na,x\n", "no column of reports; found: id, findings"),
        (b"id,report\na,Gef\xe4\xdf\n", "utf-8"),
        (b'id,report\na,"No bleed\nb,Large SDH\nc,normal\n', "a quotation mark that is never closed"),
        (b'id,report\na,"No bleed\nb,Large SDH\nc,5" nail\n', "a quotation mark inside of a quoted cell"),
        (b"id;report\na;No bleed\n", "separated by semicolons"),
    ],
)
def test_a_table_that_is_none_of_reports_is_named(tmp_path, content, named):
    file = tmp_path / "r.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(named)):
        table_of_reports(file, "report")


def test_a_report_of_many_lines_is_one_cell(tmp_path):
    file = tmp_path / "r.csv"
    file.write_bytes(b'\xef\xbb\xbfid, REPORT \na,"No ""acute"" bleed or\r\n\r\nSDH, 5"" nail"\nb,\n')
    table = table_of_reports(file, "report")
    assert table["id"].tolist() == ["row 2", "row 3"]
    assert table["text"].tolist() == ['No "acute" bleed or\r\n\r\nSDH, 5" nail', ""]
