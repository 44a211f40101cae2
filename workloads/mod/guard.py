"""A converted folder must not be taken for a dense one in silence."""

import json
from pathlib import Path

_MESSAGE = (
    "this folder holds a Mixture-of-Depths model: load it with "
    "workloads.mod.load_pretrained(path), or its dense weights alone with "
    "load_pretrained(path, as_dense=True)"
)


def refuse_dense_loading(folder: Path) -> None:
    """Make transformers' ``from_pretrained`` fail on ``folder`` with the right call in its message.

    ``transformers_weights`` in ``config.json`` names the weights file to read. What is no file
    name is refused before anything is loaded, and the refusal quotes it.

    Args:
        folder: Where a model was just saved; a process that saved no ``config.json`` is ignored.
    """
    path = folder / "config.json"
    if not path.exists():
        return
    values = json.loads(path.read_text(encoding="utf-8"))
    values["transformers_weights"] = _MESSAGE
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
