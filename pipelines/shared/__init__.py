"""What two or more studies use. Nothing here knows a study."""

import logging

logging.getLogger("matplotlib").setLevel(
    logging.ERROR
)  # at its first start it tells of the list of fonts that it makes
