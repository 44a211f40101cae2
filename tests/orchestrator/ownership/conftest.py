from tests.orchestrator.durable.conftest import any_store, quick_disk, steps, store

__all__ = ["any_store", "quick_disk", "steps", "store"]
