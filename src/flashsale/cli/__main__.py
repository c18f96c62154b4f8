"""`python -m flashsale.cli`."""

from flashsale.cli import main

main(prog_name="flashsale")
