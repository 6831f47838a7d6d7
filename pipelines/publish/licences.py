"""Under which licence networks may be handed on, and the notice that goes with them. No torch."""

from __future__ import annotations

from pipelines.shared.data.cards import Card
from pipelines.shared.errors import ConfigError, DataError

OWN = "yours"  # on the card of data that the user brings: they say under which licence
# What a data card's `weights_licence` may be, and where the licence can be read.
LICENCES = {
    "Apache-2.0": "apache.org/licenses/LICENSE-2.0",
    "CC0": "creativecommons.org/publicdomain/zero/1.0",
    "CC BY 4.0": "creativecommons.org/licenses/by/4.0",
    "CC BY-NC 4.0": "creativecommons.org/licenses/by-nc/4.0",
    "CC BY-NC-SA 4.0": "creativecommons.org/licenses/by-nc-sa/4.0",
    "ODC-By 1.0": "opendatacommons.org/licenses/by/1-0",
}


def weights_licence(card: Card, given: str | None) -> str:
    """The licence of networks that were trained on a dataset.

    Args:
        card: of the dataset.
        given: what the user says; needed for data of their own, else it may only repeat the card.

    Raises:
        DataError: the dataset's licence does not allow it.
        ConfigError: no licence is given, or another than the card's.
    """
    if card.weights_licence is None:
        raise DataError(
            f"{card.title}: what was trained on it may not be handed on ({card.licence.rstrip('.')}).",
            f"data_cards/{card.name}.md names no weights_licence; keep the run to yourself.",
        )
    if card.weights_licence == OWN:
        if not given:
            raise ConfigError(
                f"{card.title}: the data are yours, so is the choice of a licence.",
                "Give it, if patients and owners agree: --licence='CC BY 4.0'.",
            )
        return given
    if given not in (None, card.weights_licence):
        raise ConfigError(
            f"--licence='{given}' is not that of {card.title}.",
            f"data_cards/{card.name}.md has {card.weights_licence}; leave --licence out.",
        )
    return card.weights_licence


def notice(study: str, name: str, card: Card, licence: str) -> str:
    """What is shown whenever a published run is used."""
    where = f" ({LICENCES[licence]})" if licence in LICENCES else ""
    terms = ["name where it comes from"] if licence not in ("CC0",) else []
    terms += ["no commercial use"] if "NC" in licence else []
    terms += ["hand it on under the same licence"] if "SA" in licence else []
    lines = [
        f"'{name}' of {study} is NOT FOR MEDICAL USE: nobody has examined whether it is safe or right for patients.",
        f"Licence of its weights: {licence}{where}{'; ' + ', '.join(terms) if terms else ''}.",
        f"Trained on {card.title}, licence: {card.licence.rstrip('.')}. {card.access}",
    ]
    if card.synthetic:
        lines.insert(1, "It was made from synthetic data and knows nothing of real ones.")
    return "\n".join(lines)
