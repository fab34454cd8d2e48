# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What a training takes on each GPU, said before any weight is downloaded.

```bash
polyv plan --model Qwen/Qwen2.5-VL-7B-Instruct --upcycle --gpus 8 --strategy fsdp
```

The model is built from its config alone, and `step_memory.py` follows it through a step.
"""

import dataclasses
import json
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from polyv.evaluation.flops import decoder_flops, vision_flops
from polyv.hub.adapters import check_whole
from polyv.modeling_polyv.moe import PolyVExperts
from polyv.modeling_polyv.upcycling import plan_config
from polyv.recipes.step_memory import Load, trace_step
from polyv.recipes.trainable import lora_config, set_trainable


if TYPE_CHECKING:
    from peft import PeftModel


DTYPES = ("float32", "bfloat16")
# What each splits over the GPUs; the rest is whole on each.
STRATEGIES: dict[str, tuple[str, ...]] = {
    "single": (),
    "ddp": (),
    "fsdp": ("parameters", "gradients", "optimizer"),
    "zero2": ("gradients", "optimizer"),
    "zero3": ("parameters", "gradients", "optimizer"),
}
CARDS = (24, 40, 80, 141)
"""GB, as makers name them. They mean GiB: 80 are 79.6 GiB, 141 are 140.4."""
USABLE = 0.9
"""Of a card: the rest is for CUDA's context, communication's buffers and what the allocator cannot use."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training takes.

    Attributes:
        model: its class.
        dtype: of most of its weights.
        gpus, strategy, load: what was asked.
        parameters: how many. `active` leaves out the experts that a token is not sent to; `trainable` counts those
            whose `requires_grad` is set.
        memory: bytes on the GPU that holds most, by part; their sum is `total`. Counted are
            - parameters, gradients (as if all were there during the forward pass: so it is when they are accumulated over
              micro-batches) and optimizer (AdamW's two moments, and DeepSpeed's float32 masters);
            - communication: with DDP its buckets, a second copy of the gradients; with FSDP and ZeRO-3 what is whole at
              a time: two neighbouring layers (one computes, the next is gathered) and all that stands in no layer, with
              the gradients of one layer and of that;
            - activations: what autograd keeps of the forward pass up to the last hidden states, weights not counted;
            - weight_copies: bfloat16 copies of float32 weights, which autocast makes and the backward pass needs;
            - logits: what comes on top while the loss is computed and goes back to the last hidden states;
            - temporary: what more there is where a step holds most: autocast's cache at the end of the forward pass,
              a layer that is computed again, gradients that are passed down.

            Not counted: CUDA's context, NCCL's and ZeRO-2's buffers, kernels' workspace, fragmentation, what the
            optimizer's step itself holds for a moment (Trainer's default, fused AdamW, nothing).
        forward_flops, step_flops: a token, of a forward pass and of a training step with its backward pass.
    """

    model: str
    dtype: str
    gpus: int
    strategy: str
    load: Load
    parameters: int
    active: int
    trainable: int
    memory: dict[str, int]
    forward_flops: float
    step_flops: float

    @property
    def total(self) -> int:
        """Bytes on the GPU that holds most."""
        return sum(self.memory.values())

    def fits(self, card: int) -> bool:
        """Whether GPUs of `card` GB will do, a tenth of which is left for what is not counted."""
        return self.total <= USABLE * card * 2**30

    def advice(self) -> list[str]:
        """What to try where it does not fit, what costs least first."""
        states = sum(self.memory[part] for part in ("parameters", "gradients", "optimizer", "communication"))
        advice = []
        if not self.load.gradient_checkpointing:
            advice.append("gradient checkpointing: a fourth to a third more time for layers' activations")
        if 2 * states < self.total:
            advice.append("a smaller micro-batch with gradient accumulation, fewer patches")
        if self.gpus == 1:
            advice.append("more GPUs: --gpus 8 --strategy fsdp")
        elif len(STRATEGIES[self.strategy]) < 3:
            advice.append("--strategy fsdp, which splits parameters, gradients and optimizer")
        else:
            advice.append(f"more GPUs: --gpus {2 * self.gpus}")
        if 2 * self.trainable > self.parameters:
            advice.append("train less: --freeze-vision, --trainable experts, or --trainable lora")
        if self.dtype == "float32" and not self.strategy.startswith("zero"):
            advice.append("--dtype bfloat16: half of the weights, at a loss of precision where they train")
        return advice

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON; memory in bytes."""
        fits = {f"{card}GB": self.fits(card) for card in CARDS}
        return {**dataclasses.asdict(self), "total": self.total, "fits": fits, "advice": self.advice()}


def plan(model: PreTrainedModel, gpus: int = 1, strategy: str = "single", load: Load | None = None) -> Plan:
    """What training `model` takes, whose `requires_grad` flags say what trains.

    Weights of float32, if only some, stand for Trainer's `bf16=True`: bfloat16 autocast on one GPU and with DDP, bfloat16
    copies of what is gathered with FSDP. Where all are bfloat16, nothing is cast, and AdamW's moments are bfloat16, too.
    DeepSpeed keeps bfloat16 weights and gradients with float32 masters and moments whatever comes: 2, 2 and 12 bytes each
    (ZeRO, arXiv 1910.02054, section 3.1).

    Kernels are those of the CPU, whose attention keeps what FlashAttention keeps on a GPU.

    Args:
        model: PolyV or Qwen2.5-VL with a head, or PEFT's wrapping of one; on any device, also "meta". It is left as it is.
        gpus: how many, all on the same load.
        strategy: one of `STRATEGIES`.
        load: `Load()` if None.

    Raises:
        ValueError: an argument is out of range, nothing trains, or attention is neither "sdpa" nor "eager".
    """
    load = load or Load()
    weights = list(model.parameters())
    _check(model, weights, gpus, strategy)
    visual, text = model.config.vision_config, model.config.get_text_config()
    is_mixed = any(weight.dtype == torch.float32 for weight in weights)
    held = _hold_states(model, gpus, strategy, is_mixed)
    is_whole = strategy in ("single", "ddp")
    traced = trace_step(
        model,
        load,
        dtype=torch.bfloat16 if is_mixed and not is_whole else None,
        autocast=is_mixed and not strategy.startswith("zero"),
    )
    rows = load.batch_size
    decoder = rows * decoder_flops(text, load.tokens, load.tokens, load.count_answers(visual))
    vision = rows * vision_flops(visual, load.patches)
    count = rows * load.tokens
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return Plan(
        model=type(inner).__name__,
        dtype=str(max(weights, key=torch.Tensor.numel).dtype).removeprefix("torch."),
        gpus=gpus,
        strategy=strategy,
        load=load,
        parameters=sum(weight.numel() for weight in weights),
        active=sum(weight.numel() for weight in weights) - _count_idle(model, text),
        trainable=sum(weight.numel() for weight in weights if weight.requires_grad),
        memory={**held, **traced},
        forward_flops=(decoder + vision) / count,
        step_flops=_step_flops(model, decoder, vision, load.gradient_checkpointing) / count,
    )


def _check(model: Any, weights: list[nn.Parameter], gpus: int, strategy: str) -> None:
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy}: expected one of {', '.join(STRATEGIES)}.")
    if gpus < 1:
        raise ValueError(f"gpus={gpus}: expected 1 or more.")
    if (gpus == 1) != (strategy == "single"):
        expected = "single is for 1; take ddp, fsdp, zero2 or zero3" if gpus > 1 else "it is for several; take single"
        raise ValueError(f"strategy={strategy} with gpus={gpus}: {expected}, or another number of gpus.")
    if not any(weight.requires_grad for weight in weights):
        raise ValueError("model: no weight has requires_grad set, so nothing would train. Set it on what should.")
    attention = model.config.get_text_config()._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise ValueError(
            f"model: attn_implementation is {attention}, which runs on GPUs alone; expected sdpa, which keeps as much, or "
            "eager."
        )


def _hold_states(model: Any, gpus: int, strategy: str, is_mixed: bool) -> dict[str, int]:
    """Bytes of parameters, gradients, optimizer and communication on the first GPU, which holds most."""
    by_deepspeed = strategy.startswith("zero")
    weights = list(model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]

    def count(part: str, tensors: Iterable[torch.Tensor], each: int | None = None) -> int:
        among = gpus if part in STRATEGIES[strategy] else 1
        return sum(
            _count_share(tensor, among, not by_deepspeed) * (each or tensor.element_size()) for tensor in tensors
        )

    small = 2 if by_deepspeed else None
    gradients = count("gradients", trained, small)
    communication = 0
    if strategy == "ddp":
        communication = gradients
    elif "parameters" in STRATEGIES[strategy]:
        communication = _gather(model, 2 if is_mixed or by_deepspeed else None)
    return {
        "parameters": count("parameters", weights, small),
        "gradients": gradients,
        "optimizer": count("optimizer", trained, 12) if by_deepspeed else 2 * count("optimizer", trained),
        "communication": communication,
    }


def _count_share(tensor: torch.Tensor, among: int, by_rows: bool) -> int:
    """Numbers in the first of `among` parts of a tensor, which FSDP2 splits by rows and DeepSpeed anywhere. Experts' rows
    are whole experts: of 4 experts on 8 GPUs, the first four hold one each."""
    rows = tensor.shape[0] if by_rows and tensor.ndim else tensor.numel()
    return -(-rows // among) * (tensor.numel() // rows)


def _gather(model: Any, each: int | None) -> int:
    """Bytes that are whole at a time where parameters are split; `each` is a number's size, None the weight's own."""
    names = set(model._no_split_modules)
    layers = [list(module.parameters()) for module in model.modules() if type(module).__name__ in names]
    inside = {weight for layer in layers for weight in layer}
    rest = [weight for weight in model.parameters() if weight not in inside]

    def size(weights: list[nn.Parameter], trained: bool = False) -> int:
        kept = (weight for weight in weights if weight.requires_grad or not trained)
        return sum(weight.numel() * (each or weight.element_size()) for weight in kept)

    gathered = size(rest) + max(size(one) + size(other) for one, other in pairwise(layers))
    return gathered + size(rest, trained=True) + max(size(layer, trained=True) for layer in layers)


def _count_idle(model: nn.Module, text: Any) -> int:
    """Weights of the experts that a token is not sent to."""
    experts = sum(
        weight.numel()
        for module in model.modules()
        if isinstance(module, PolyVExperts)
        for weight in module.parameters()
    )
    return experts * (text.num_experts - text.num_experts_per_tok) // text.num_experts if experts else 0


def _step_flops(model: nn.Module, decoder: float, vision: float, again: bool) -> float:
    """Of forward and backward pass: activations' gradients take as many as the forward pass, weights' gradients as many
    again by the share of weights that train, and checkpointing the forward pass once more."""
    tower: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        (tower if ".visual." in f".{name}" and ".merger." not in name else rest).append(weight)
    total = 0.0
    for flops, weights in ((vision, tower), (decoder, rest)):
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        # Through a frozen tower no gradient goes, unless checkpointing, for which transformers gives inputs one.
        if trained or again or weights is rest:
            flops *= 2 + again + trained / sum(weight.numel() for weight in weights)
        total += flops
    return total


def run(
    model: str,
    gpus: int = 1,
    strategy: str = "single",
    trainable: str = "full",
    upcycle: bool = False,
    freeze_vision: bool = False,
    dtype: str = "float32",
    load: Load | None = None,
    as_json: bool = False,
    lora_r: int = 16,
) -> None:
    """Print the plan of training a checkpoint, of which only the config is read.

    Args:
        model: a folder, or a name on the Hub: PolyV or Qwen2.5-VL.
        gpus, strategy, load: as in `plan`.
        trainable: what trains, a word of `polyv.recipes.trainable`.
        upcycle: plan the PolyV that a Qwen2.5-VL would become. A PolyV is one already.
        freeze_vision: keep the vision encoder's weights but those of its projection, as `polyv train pretrain` does.
        dtype: of the weights: float32 (trained under bfloat16 autocast) or bfloat16.
        as_json: print one JSON object, memory in bytes, instead of a table.
        lora_r: rank of what "lora" adds.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: an argument is out of range, or the model is of another family.
    """
    built = build(model, upcycle, dtype)
    set_trainable(built, trainable, freeze_vision)  # synergy heads are taken as trained where all is
    planned = plan(add_lora(built, lora_r) if trainable == "lora" else built, gpus, strategy, load)
    print(json.dumps({"name": model, **planned.to_dict()}, indent=2) if as_json else f"{model}\n{to_table(planned)}")


def build(
    model: str, upcycle: bool = False, dtype: str = "float32", attention: Any = "sdpa", **overrides: Any
) -> PreTrainedModel:
    """A checkpoint's model on the meta device, where weights have shapes and no numbers.

    Args:
        attention: `attn_implementation`, of the whole model or of each part.
        overrides: of what is upcycled, arguments of `PolyVConfig` or `PolyVTextConfig`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the model is neither a PolyV nor a Qwen2.5-VL, or an adapter, or `dtype` none of `DTYPES`.
    """
    check_whole("model", model)
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype}: expected {' or '.join(DTYPES)}.")
    config = AutoConfig.from_pretrained(model)
    if config.model_type not in ("polyv", "qwen2_5_vl"):
        raise ValueError(f"model={model}: its config is of a {config.model_type}; expected a polyv or a qwen2_5_vl.")
    if upcycle and config.model_type == "qwen2_5_vl":
        config, _ = plan_config(config, model, None, overrides)
    with torch.device("meta"):
        kwargs = {"dtype": getattr(torch, dtype), "attn_implementation": attention}
        return AutoModelForImageTextToText.from_config(config, **kwargs)


def add_lora(model: PreTrainedModel, rank: int) -> "PeftModel":
    """As the stages do for `trainable: lora`."""
    set_trainable(model, "lora")
    adapter = lora_config(model, rank, alpha=rank)
    from peft import get_peft_model

    return get_peft_model(model, adapter)


def to_table(planned: Plan) -> str:
    """The plan as aligned text."""
    load = planned.load
    answers = "all text" if load.answers is None else load.answers
    checkpointing = "" if load.gradient_checkpointing else "no "
    fits = [str(card) for card in CARDS if planned.fits(card)]
    too_small = [str(card) for card in CARDS if not planned.fits(card)]
    share = 100 * planned.trainable / planned.parameters
    many, giga, size = ("B", "G", 1e9) if planned.parameters >= 1e9 else ("M", "M", 1e6)
    unit, bytes_each = ("GiB", 2**30) if planned.total >= 2**30 else ("MiB", 2**20)
    counts = {"parameters": planned.parameters, "active a token": planned.active, "trainable": planned.trainable}
    lines = [
        f"{planned.model}, {planned.dtype} weights; {planned.gpus} GPU{'s' * (planned.gpus > 1)}, {planned.strategy}",
        f"on each: {load.batch_size} x {load.tokens} tokens with {load.patches} patches; logits: {answers}; "
        f"{checkpointing}gradient checkpointing",
        "",
        *(f"{name:<16}{count / size:>9.3f} {many}" for name, count in counts.items()),
        f"{'FLOPs a token':<16}{planned.forward_flops / size:>9.1f} {giga} forward, {planned.step_flops / size:.1f} {giga} a step",
        "",
        f"memory a GPU         {unit}",
        *(f"  {part.replace('_', ' '):<14}{held / bytes_each:>8.2f}" for part, held in planned.memory.items()),
        f"  {'total':<14}{planned.total / bytes_each:>8.2f}",
        "",
        f"fits on GPUs of {', '.join(fits)} GB (a tenth is left free)" if fits else "fits on none of the usual GPUs",
    ]
    lines[5] += f" ({share:.1f} %)"
    if too_small:
        lines += [
            f"does not fit on {', '.join(too_small)} GB; to try next, in words of `polyv plan`:",
            *(f"  {each}" for each in planned.advice()),
        ]
    return "\n".join(lines)


__all__ = ["CARDS", "DTYPES", "STRATEGIES", "Load", "Plan", "add_lora", "build", "plan", "run", "to_table"]
