"""Arrays recorded from the released codes, as models and inputs of ours (tests/golden)."""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from workloads.kinds import TokenKind

FOLDER = Path(__file__).parents[2] / "golden"
PLACEHOLDER = -200


class Golden:
    """One recorded file: ``tensor("train_mm/logits")``, ``config["mod_layers_idx"]``."""

    def __init__(self, name):
        self.config = json.loads((FOLDER / f"{name}.json").read_text())["config"]
        self._arrays = np.load(FOLDER / f"{name}.npz")

    def tensor(self, name):
        tensor = torch.from_numpy(self._arrays[name])
        return tensor.long() if tensor.dtype == torch.int32 else tensor

    def weights(self):
        return {
            name.removeprefix("w/"): self.tensor(name)
            for name in self._arrays.files
            if name.startswith("w/")
        }

    def model(self, attention="sdpa"):
        """The recorded model without its routers, dense."""
        config = LlamaConfig(
            vocab_size=self.config["vocab"],
            hidden_size=self.config["hidden"],
            intermediate_size=self.config["inter"],
            num_hidden_layers=self.config["layers"],
            num_attention_heads=self.config["heads"],
            num_key_value_heads=self.config["kv"],
            rms_norm_eps=self.config["rms_norm_eps"],
            rope_parameters={"rope_type": "default", "rope_theta": self.config["rope_theta"]},
            bos_token_id=1,
            eos_token_id=None,
            pad_token_id=0,
        )
        config._attn_implementation = attention
        # Images come in as embeddings; the id only says that the model has them.
        config.image_token_id = self.config["vocab"] - 1
        model = LlamaForCausalLM(config).eval()
        dense = {n.replace(".decoder_layer.", "."): w for n, w in self.weights().items()}
        model.load_state_dict({n: w for n, w in dense.items() if ".router." not in n})
        return model

    def spliced(self, model, part):
        """Embeddings of one recorded batch with its image features in, from the model's table."""
        features = self.tensor(f"{part}/image_features")
        rows = []
        for ids, image in zip(self.tensor(f"{part}/input_ids"), features, strict=True):
            at = int((ids == PLACEHOLDER).nonzero())
            text = model.get_input_embeddings()(ids.clamp(min=0))
            rows.append(torch.cat([text[:at], image, text[at + 1 :]]))
        return torch.stack(rows)


def kinds_from(routable, mask, labels):
    """Kinds of a recorded batch: what may be skipped is image, the rest question or answer."""
    kinds = torch.full(mask.shape, int(TokenKind.QUESTION))
    kinds[labels != -100] = TokenKind.ANSWER
    kinds[routable] = TokenKind.IMAGE
    kinds[~mask] = TokenKind.PAD
    return kinds
