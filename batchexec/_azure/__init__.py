"""The only room that imports the Azure SDKs: Batch and Blob storage as the engine needs them, with typed errors.

azure-batch serves everything Batch; azure-storage-blob containers, signatures and large transfers; listing and small
reads and writes go by plain HTTP on SAS URLs, a tenth of the SDK's CPU time.
"""
