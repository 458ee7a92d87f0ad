"""Starts the processes of a node's tasks: the program that a node runs for it, by path, with any Python from 3.10.

`_forkserver_main.py <channel fd> [<zipapp> <module> [inline]]`. Commands and reports are lines of JSON on the channel,
a socket. At its end-of-file every process started here is killed.
"""

from __future__ import annotations

import os
import sys
import types

if __name__ == "__main__":
    # The modules beside this file hang on a package made up here: `sys.path` is the tasks' own, and a zipapp may bring
    # modules of any name.
    _package = types.ModuleType("_batch_node_processes")
    _package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules[_package.__name__] = _package
    __package__ = _package.__name__

    from ._forkserver import main

    main(sys.argv[1:])
