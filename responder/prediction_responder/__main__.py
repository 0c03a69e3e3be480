"""The command `responder`, and `python -m prediction_responder`."""

import sys

from prediction_responder.extras import MissingExtra, extra


def main() -> None:
    """Run the command; if its extra is not installed, say so in one line."""
    try:
        with extra("serve"):
            from prediction_responder.cli import run
    except MissingExtra as error:
        sys.exit(f"responder: {error}")
    run()


if __name__ == "__main__":
    main()
