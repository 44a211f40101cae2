from orchestrator.store.errors import DurableError, StoreError
from orchestrator.store.store import FileRecord, Store, open_store

__all__ = ["DurableError", "FileRecord", "Store", "StoreError", "open_store"]
