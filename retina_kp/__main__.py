"""``python -m retina_kp``: the same as ``retina-kp``."""

from .cli.main import cli

if __name__ == "__main__":
    cli(prog_name="retina-kp")
