"""The only room that imports the Azure SDKs: Batch and Blob storage as the engine needs them, with typed errors.

azure-batch serves everything Batch; azure-storage-blob containers and signatures; listing, reading and writing go by
plain HTTP on SAS URLs, at a tenth of the SDK's CPU time.
"""
