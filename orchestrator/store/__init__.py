from orchestrator.store.errors import DurableError, StoreError
from orchestrator.store.store import FileRecord, Store, discard, open_store

__all__ = ["DurableError", "FileRecord", "Store", "StoreError", "discard", "open_store"]
