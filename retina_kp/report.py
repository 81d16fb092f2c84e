"""``python -m retina_kp.report NOTEBOOK …``: the same as ``retina-kp report``."""

from .cli.main import report

if __name__ == "__main__":
    report(prog_name="python -m retina_kp.report")
