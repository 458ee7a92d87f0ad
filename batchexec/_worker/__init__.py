"""What runs on a node: standard library, cloudpickle and `_wire`, built into worker.pyz at run time."""
