"""The command `producer`, and `python -m prediction_client`."""

import sys


def main() -> None:
    """Run the command; if its extra is not installed, say so in one line."""
    try:
        from prediction_client.cli import cli
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f"producer: {error.name} is not installed; it comes with: pip install 'prediction-responder[cli]'")
    cli()


if __name__ == "__main__":
    main()
