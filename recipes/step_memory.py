# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What a training step holds in memory, counted without memory.

There is no formula here: the model makes a training step as `PolyVTrainer` does, on tensors that have shapes and no
numbers (torch's FakeTensor), while a ledger notes each storage from its making to its end. That takes seconds for any
size, and follows whatever transformers, the experts and checkpointing do.
"""

import copy
import math
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Load:
    """What one GPU is given at a time: the settings of a `Plan` that decide its activations.

    Attributes:
        batch_size: conversations in a micro-batch (`per_device_train_batch_size`). Those beyond the first end in padding, as
            in most batches, so that attention needs a mask.
        tokens: of each conversation, text and visual tokens.
        patches: of each conversation, 14 pixels wide and high at published sizes; four make a visual token. They are
            planned as one image, as square as their number allows. 0 is text alone.
        answers: of each conversation, the positions whose logits are computed: those of answers. None: all text.
        gradient_checkpointing: whether each layer keeps its input alone and is computed again in the backward pass.

    Raises:
        ValueError: a number is out of range.
    """

    batch_size: int = 1
    tokens: int = 2048
    patches: int = 4096
    answers: int | None = None
    gradient_checkpointing: bool = True

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: expected 1 or more conversations.")
        if self.patches < 0:
            raise ValueError(f"patches={self.patches}: expected 0 (text alone) or more.")

    def grid(self, vision: Any) -> tuple[int, int]:
        """Height and width in patches, as the vision encoder of config `vision` merges them; (0, 0) without any.

        Raises:
            ValueError: so many patches cannot be merged, or leave no place for text.
        """
        side = vision.spatial_merge_size
        visual, left = divmod(self.patches, side**2)
        if left:
            raise ValueError(
                f"patches={self.patches}: {side}x{side} make a visual token, so expected a multiple of {side**2}, "
                f"as {visual * side**2}."
            )
        room = self.tokens - visual - 2 * bool(visual)
        if room < 2:
            raise ValueError(
                f"tokens={self.tokens}: {self.patches} patches make {visual} visual tokens, so expected at least "
                f"{self.tokens - room + 2} in all. Raise tokens, or lower patches."
            )
        if self.answers is not None and not 1 <= self.answers < self.tokens:
            raise ValueError(
                f"answers={self.answers}: expected 1 to {self.tokens - 1}, as there are {self.tokens} tokens and each is "
                "foretold from those before it. Leave it out for all text."
            )
        if not visual:
            return 0, 0
        height = next(rows for rows in range(math.isqrt(visual), 0, -1) if visual % rows == 0)
        return height * side, visual // height * side

    def count_answers(self, vision: Any) -> int:
        """`answers`, or where it is None all text but the first token, which nothing foretells."""
        return self.answers or self.tokens - self.patches // vision.spatial_merge_size**2 - 3 * bool(self.patches)


class _Ledger(TorchDispatchMode):
    """Notes the bytes of every storage from the operation that makes it to its end, and what of them autograd keeps.

    Weights themselves do not count, nor does a weight's gradient once it is complete.
    """

    def __init__(self, weights: Iterable[torch.Tensor]):
        super().__init__()
        self.weights = {weight.untyped_storage()._cdata for weight in weights}
        self.sizes: dict[int, int] = {}
        self.copies: set[int] = set()
        self.kept: set[int] = set()
        self.live = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                key = self.enter(tensor)
                if func is torch.ops.aten._to_copy.default and args[0].untyped_storage()._cdata in self.weights:
                    self.copies.add(key)
        return made

    def enter(self, tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes and key not in self.weights:
            self.sizes[key] = storage.nbytes()
            self.live += self.sizes[key]
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self.leave, key)
        return key

    def leave(self, key: int) -> None:
        self.live -= self.sizes.pop(key)
        self.copies.discard(key)
        self.kept.discard(key)

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """Of `saved_tensors_hooks`: autograd keeps `tensor`."""
        self.kept.add(self.enter(tensor))
        return tensor

    def sum_kept(self, copies: bool) -> int:
        """Bytes that autograd keeps now: of copies of weights, or of all else."""
        return sum(self.sizes[key] for key in self.kept & self.sizes.keys() if (key in self.copies) == copies)


def trace_step(model: Any, load: Load, dtype: torch.dtype | None, autocast: bool) -> dict[str, int]:
    """Bytes of activations, weight_copies, logits and temporary of a training step.

    Args:
        dtype: of the weights while they compute, if other than their own.
        autocast: whether the forward pass is under bfloat16 autocast.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # token numbers and grids stay real: they decide shapes
    twin = _make_twin(model, fake, dtype)
    ledger = _Ledger(twin.parameters())
    found: dict[str, int] = {}

    def enter_head(head: nn.Module, args: tuple) -> None:
        found.update(activations=ledger.sum_kept(False), weight_copies=ledger.sum_kept(True))
        found.update(before=ledger.live, peak=ledger.peak)
        ledger.peak = ledger.live
        if args[0].requires_grad:
            args[0].register_hook(lambda _: leave_head())

    def leave_head() -> None:
        found.setdefault("logits", ledger.peak - found["before"])

    twin.get_output_embeddings().register_forward_pre_hook(enter_head)
    for weight in twin.parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(lambda weight: setattr(weight, "grad", None))
    _widen_windows(twin, load)
    twin.train()
    if load.gradient_checkpointing:
        # Releases of transformers that know the first name warn of the second.
        enable = getattr(twin, "activation_checkpointing_enable", None) or twin.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    with ledger, torch.autograd.graph.saved_tensors_hooks(ledger.keep, lambda tensor: tensor):
        _forward(twin, load, fake, autocast).backward()
    leave_head()
    counted = found["activations"] + found["weight_copies"] + found["logits"]
    return {
        **{part: found[part] for part in ("activations", "weight_copies", "logits")},
        "temporary": max(found["peak"], ledger.peak) - counted,
    }


def _make_twin(model: Any, fake: FakeTensorMode, dtype: torch.dtype | None) -> Any:
    """The model with weights that have shapes alone."""
    twins: dict[int, Any] = {}
    with fake:
        for buffer in model.buffers():
            twins[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
        for weight in model.parameters():
            empty = torch.empty(weight.shape, dtype=dtype or weight.dtype, device="cpu")
            twins[id(weight)] = nn.Parameter(empty, requires_grad=weight.requires_grad)
    return copy.deepcopy(model, twins)


def _widen_windows(twin: Any, load: Load) -> None:
    # One window in place of thousands: as many bytes with sdpa, in a fraction of the time.
    if twin.config.vision_config._attn_implementation == "sdpa" and load.patches:
        visual = twin.get_encoder(modality="image")
        visual.window_size = max(load.grid(twin.config.vision_config)) * visual.patch_size


def _forward(twin: Any, load: Load, fake: FakeTensorMode, autocast: bool) -> torch.Tensor:
    """The loss, computed as `PolyVTrainer` and accelerate do."""
    text, config = twin.config.get_text_config(), twin.config
    answers = load.count_answers(config.vision_config)
    asked = {"output_router_logits": True} if getattr(text, "moe_layers", []) else {}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = twin(
            **_make_batch(twin, load, fake),
            use_cache=False,
            logits_to_keep=torch.arange(load.tokens - 1 - answers, load.tokens - 1),
            **asked,
        )
    # accelerate makes float32 of what autocast returns, and keeps nothing else.
    logits = outputs.logits.float() if autocast else outputs.logits
    aux_loss = outputs.aux_loss if asked else 0.0
    del outputs
    targets = torch.ones(logits.shape[:2], dtype=torch.long)
    loss = twin.loss_function(
        logits=logits,
        labels=None,
        shift_labels=targets,
        vocab_size=logits.shape[-1],
        num_items_in_batch=torch.tensor(targets.numel()),
    )
    return loss + getattr(text, "router_aux_loss_coef", 0.0) * aux_loss


def _make_batch(twin: Any, load: Load, fake: FakeTensorMode) -> dict[str, torch.Tensor]:
    config, vision = twin.config, twin.config.vision_config
    rows, length = load.batch_size, load.tokens
    height, width = load.grid(vision)
    visual = height * width // vision.spatial_merge_size**2
    # Of all numbers, only those of visual tokens and <synergy> decide a shape.
    taken = {config.image_token_id, config.video_token_id, getattr(config, "synergy_token_id", None)}
    ids = torch.full((rows, length), next(number for number in range(4) if number not in taken))
    batch = {"input_ids": ids, "position_ids": torch.zeros(3, rows, length, dtype=torch.long)}
    with fake:
        if visual:
            values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
            batch["pixel_values"] = torch.empty(rows * height * width, values)
        if config.get_text_config()._attn_implementation == "eager":
            batch["attention_mask"] = torch.empty(rows, 1, length, length, dtype=twin.dtype)
        elif rows > 1:
            batch["attention_mask"] = torch.empty(rows, 1, length, length, dtype=torch.bool)
    if visual:
        ids[:, 1 : visual + 1] = config.image_token_id
        batch["image_grid_thw"] = torch.tensor([[1, height, width]] * rows)
    return batch


__all__ = ["Load", "trace_step"]
