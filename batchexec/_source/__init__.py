"""The user's own modules: found while pickling, and archived under a content hash."""

from batchexec._source.archive import Archive, bundle
from batchexec._source.scan import Reached, dumps_recording

__all__ = ["Archive", "Reached", "bundle", "dumps_recording"]
