"""What goes back of a study: a Comprehensive SR by TID 1500, and on demand its key slices as secondary capture.

DICOM PS3.16, TID 1500 "Measurement Report" with TID 1501, 4019 (algorithm identification). The same revision of a study
gives the same SOP Instance UID whenever it is made: a receiver that gets it twice has it once.
"""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import pipelines
from pipelines.shared.run_folder import read_picture

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from pipelines.head_ct.listen.journal import Entry, Letter
    from pipelines.head_ct.listen.store import Store

MAKER, MODEL_NAME = "imaging-pipelines", "Head CT triage"
NOT_FOR_DIAGNOSIS = "not for primary diagnosis"
SCHEME = "99IMGPIPE"  # codes of our own; 99 marks a private scheme
SERIES_NUMBERS = {"sr": 9901, "sc": 9902}


class NothingToSend(Exception):
    """There is no such result, and there will not be one: nothing is tried again."""


def uid_for(*parts: object) -> str:
    """A UID that is a function of what it is for (128 bits below 2.25, PS3.5 B.2)."""
    digest = hashlib.sha256("\0".join(str(p) for p in parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big') | 1}"


class Results:
    """Makes results from what the node keeps.

    Args:
        store: files and journal.
        pictures: folder of the key slices.
        model: fingerprint of the networks and thresholds.
        threshold: of the alarm; None: there is none.
    """

    def __init__(self, store: Store, pictures: Path, model: str, threshold: float | None) -> None:
        self.store, self.pictures, self.model, self.threshold = store, pictures, model, threshold

    def make(self, letter: Letter) -> Dataset:
        """The object that a letter stands for.

        Raises:
            NothingToSend: a later revision has a score, the files are gone, or there are no key slices.
        """
        entry = self.store.journal.last_score(letter.study)
        if entry is None or entry.scored != letter.revision:
            raise NothingToSend("a later score took its place")
        if entry.after_removal:  # what lies there now is not what was scored
            raise NothingToSend("its files are gone")
        evidence = self._evidence(letter.study)
        if letter.kind == "sr":
            return self.report(entry, evidence)
        file = self.pictures / f"{letter.study}.png"
        if not file.is_file():
            raise NothingToSend("there are no key slices")
        return self.capture(entry, evidence, read_picture(file))

    def _evidence(self, study: str) -> list[Dataset]:
        """The headers of a study's files that can be read."""
        from pydicom import dcmread
        from pydicom.errors import InvalidDicomError

        found = []
        for file in sorted((self.store.root / study).glob("*.dcm")):
            try:
                found.append(dcmread(file, stop_before_pixels=True))
            except (InvalidDicomError, OSError, EOFError):
                continue
        if not found:
            raise NothingToSend("its files are gone")
        first = str(found[0].StudyInstanceUID)
        return [ds for ds in found if str(ds.StudyInstanceUID) == first]

    def _common(self, entry: Entry, evidence: list[Dataset], kind: str) -> dict[str, Any]:
        """What both kinds of object say of themselves."""
        study = str(evidence[0].StudyInstanceUID)
        scored_at = datetime.datetime.fromtimestamp(entry.at or 0)
        return {
            "series_instance_uid": uid_for(self.model, study, kind),
            "series_number": SERIES_NUMBERS[kind],
            "sop_instance_uid": uid_for(self.model, study, entry.scored, kind),
            "instance_number": entry.scored,
            "manufacturer": MAKER,
            "manufacturer_model_name": MODEL_NAME,
            "series_description": f"Head CT triage, {NOT_FOR_DIAGNOSIS}",
            "content_date": scored_at.date(),
            "content_time": scored_at.time(),
        }

    def report(self, entry: Entry, evidence: list[Dataset]) -> Dataset:
        """The structured report of an entry that has a score: TID 1500, with score, threshold and algorithm."""
        from highdicom import sr
        from pydicom.sr.codedict import codes

        outcome = entry.outcome
        assert outcome is not None
        assert outcome.score is not None
        study = str(evidence[0].StudyInstanceUID)
        device = sr.ObserverContext(
            codes.DCM.Device,
            sr.DeviceObserverIdentifyingAttributes(
                uid_for("device", self.model), name=MODEL_NAME, manufacturer_name=MAKER, model_name=self.model[:16]
            ),
        )
        algorithm = sr.AlgorithmIdentification(
            MODEL_NAME,
            pipelines.__version__,
            [f"model {self.model}", f"files {entry.files}", f"series: {outcome.series}", NOT_FOR_DIAGNOSIS],
            manufacturer=MAKER,
        )
        unit = codes.UCUM.NoUnits
        numbers = [("score", "Probability of a critical finding, " + NOT_FOR_DIAGNOSIS, outcome.score)]
        if self.threshold is not None:
            numbers.append(("threshold", "Threshold of the alarm", self.threshold))
        measurements = [
            sr.Measurement(sr.CodedConcept(value, SCHEME, meaning), _decimal(number), unit, algorithm_id=algorithm)
            for value, meaning, number in numbers
        ]
        alarm = {True: ("alarm", "Alarm"), False: ("no_alarm", "No alarm"), None: ("none", "No threshold")}
        value, meaning = alarm[outcome.alarm]
        evaluation = sr.QualitativeEvaluation(
            sr.CodedConcept("triage", SCHEME, f"Triage, {NOT_FOR_DIAGNOSIS}"), sr.CodedConcept(value, SCHEME, meaning)
        )
        group = sr.MeasurementsAndQualitativeEvaluations(
            sr.TrackingIdentifier(uid_for(self.model, study, "group"), "Head CT triage"),
            finding_type=sr.CodedConcept("critical", SCHEME, "Critical finding"),
            algorithm_id=algorithm,
            measurements=measurements,
            qualitative_evaluations=[evaluation],
        )
        content = sr.MeasurementReport(
            sr.ObservationContext(observer_device_context=device),
            procedure_reported=sr.CodedConcept("77477000", "SCT", "Computed tomography"),
            imaging_measurements=[group],
            title=codes.DCM.ImagingMeasurementReport,
        )
        return sr.ComprehensiveSR(
            [_complete(ds) for ds in evidence],
            content[0],
            is_complete=True,
            is_final=False,
            is_verified=False,
            **self._common(entry, evidence, "sr"),
        )

    def capture(self, entry: Entry, evidence: list[Dataset], picture: np.ndarray) -> Dataset:
        """Key slices, uint8 (height, width), as a secondary capture."""
        from highdicom.sc import ConversionTypeValues, SCImage

        grey = np.asarray(Image.fromarray(picture).convert("L"))
        common = self._common(entry, evidence, "sc")
        capture = SCImage.from_ref_dataset(
            _complete(evidence[0]),
            grey,
            "MONOCHROME2",
            8,
            "PATIENT",
            patient_orientation=("L", "P"),
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            **common,
        )
        capture.ConversionType = ConversionTypeValues.WSD.value  # made by a workstation
        return capture


def _decimal(number: float) -> float:
    """A number that a decimal string (16 characters) holds."""
    return float(f"{number:.8f}")


def _complete(header: Dataset) -> Dataset:
    """A header with the elements that an SR or SC takes over, empty where a scanner left them out."""
    for name in (
        "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
        "StudyTime", "ReferringPhysicianName",
    ):  # fmt: skip
        if name not in header:
            setattr(header, name, None if name in ("StudyDate", "StudyTime", "PatientBirthDate") else "")
    return header
