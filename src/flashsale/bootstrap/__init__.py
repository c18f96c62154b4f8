"""The composition root: settings in, everything wired out, a module for each kind of process.

`api`: what an API process serves from. `jobs`: what workers run. `commands`: what the command line needs of the
servers. `doctor`: the checks of an installation. `servers`: what these share. A process imports its own module only,
so that it starts without the libraries of the others.
"""
