from tests.orchestrator.durable.conftest import quick_disk, steps, store

__all__ = ["quick_disk", "steps", "store"]
