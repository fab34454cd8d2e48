# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The trainer every stage builds on: TRL's SFTTrainer, where it would go wrong for PolyV, put right."""

import dataclasses
import json
import os
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import PreTrainedModel, ProcessorMixin
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import SFTConfig, SFTTrainer

from polyv.files import write_whole
from polyv.hub.cards import IMPORT, LOAD, write_card
from polyv.recipes.checkpoints import ResumingTrainer
from polyv.recipes.collator import IGNORED, ConversationCollator, EvenBatches
from polyv.recipes.curves import BriefPrinter, BriefProgress, Curves, Tally


CARD = """\
# {name}

{origin}, on {datasets}: {steps} steps of {batch} conversations, seed {seed}.{stage}

{load}
![training loss](loss.png)
"""

EXPERTS = """
![share of the assignments that goes to each expert, by layer and kind of token](experts.png)
"""


WITHOUT_EFFECT = {
    "max_length": "rows are never cut; `polyv data check --max-length` names those that are longer",
    "truncation_mode": "rows are never cut",
    "completion_only_loss": "answers alone are learned",
    "loss_type": "the loss is the model's own",
    "label_smoothing_factor": "the loss is the model's own",
    "dataset_text_field": "rows are conversations, see docs/training.md",
    "pad_to_multiple_of": "rows are padded to the longest of their batch",
    "pad_token": "the processor has its own",
    "eos_token": "the processor has its own",
    "chat_template_path": "rows are read by the processor's own template; save another one with the processor",
    "assistant_only_loss": "answers alone are learned",
    "packing": "rows are not packed",
    "packing_strategy": "rows are not packed",
    "padding_free": "rows are padded to the longest of their batch",
    "eval_packing": "rows are not packed",
    "shuffle_dataset": "rows are drawn anew each epoch",
    "data_seed": "`seed` decides which rows come when, too",
    "length_column_name": "lengths are counted by the collator",
    "trust_remote_code": "PolyV's code is this package's",
    "dataset_num_proc": "rows are read as they come; dataloader_num_workers does it beside the training",
}
"""Fields of SFTConfig that change nothing here, or not all that they should, and why: one that was set is refused."""


def check_fields(training: SFTConfig) -> None:
    """Raise ValueError where a field `WITHOUT_EFFECT` is set."""
    defaults = {field.name: field.default for field in dataclasses.fields(SFTConfig)}
    for name, reason in WITHOUT_EFFECT.items():
        if (value := getattr(training, name)) not in (None, defaults[name]):
            raise ValueError(f"{name}={value!r}: it would change nothing, as {reason}. Leave it out.")


class PolyVTrainer(ResumingTrainer, SFTTrainer):
    """SFTTrainer for PolyV, and for the dense Qwen2.5-VL that it is upcycled from.

    What differs, and why:
    - The loss comes from the model's own forward: TRL patches the LM head and pools the router statistics of all
      layers, so that two layers collapsed onto opposite experts look balanced. PolyV's `aux_loss` is per layer.
    - Gradient accumulation weighs every answer token alike; Qwen2.5-VL declares `accepts_loss_kwargs = False`, which
      makes Trainer average the micro-batches' means instead.
    - The collator reads media itself: every column of the dataset reaches it, and `max_length` cuts nothing.
    - `train_sampling_strategy="group_by_length"` groups by length with media counted, and resumes exactly.
    - The log also holds the cross-entropy (`ce_loss`), the other parts of the loss before their weights, and of each
      layer's experts the load by kind of token, see `Tally`; all are of all processes, and are drawn.
    - It resumes as `ResumingTrainer` does.

    Args:
        datasets: what the model card names as training data.
        base_model: what the model card names as origin; None if trained from scratch.
        peft_config: of an adapter to train in place of the model's own weights.
        stage: what the model card says of how it was trained, beyond data, steps and seed.

    Raises:
        ValueError: a field `WITHOUT_EFFECT` is set, or gradient checkpointing is reentrant. The router's statistics are
            captured inside the checkpointed layers: without a graph, which would silence the balance loss.
    """

    _tag_names = ["polyv"]

    def __init__(
        self,
        model: PreTrainedModel,
        args: SFTConfig,
        train_dataset: Dataset,
        data_collator: ConversationCollator,
        processing_class: ProcessorMixin,
        datasets: list[str],
        base_model: str | None = None,
        peft_config: Any = None,
        stage: str = "",
    ):
        check_fields(args)
        if args.gradient_checkpointing and (args.gradient_checkpointing_kwargs or {}).get("use_reentrant"):
            raise ValueError(
                "gradient_checkpointing_kwargs: use_reentrant=True cuts the router off from its balance loss. "
                "Leave it out, or set it to false."
            )
        args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}
        args.remove_unused_columns = False
        text_config = model.config.get_text_config()
        asked_for_router_logits = getattr(text_config, "output_router_logits", None)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=data_collator,
            processing_class=processing_class,
            peft_config=peft_config,
        )
        self.router_aux_loss_coef = getattr(text_config, "router_aux_loss_coef", 0.0)
        self.tally = Tally(model.config)
        # SFTTrainer knows PolyV as a model with experts; one without (num_experts=0) has no load to balance.
        self.aux_loss_enabled = bool(self.router_aux_loss_coef and self.tally.layers)
        self.tally.names += ["mean_token_accuracy", *(["aux_loss"] if self.aux_loss_enabled else [])]
        if asked_for_router_logits is not None:  # SFTTrainer sets it, and it would be saved with the model
            text_config.output_router_logits = asked_for_router_logits
        self.model_accepts_loss_kwargs = True
        self.datasets, self.base_model, self.stage = datasets, base_model, stage
        self.is_polyv = model.config.model_type == "polyv"
        self.add_callback(Curves())
        for printer, brief in ((ProgressCallback, BriefProgress), (PrinterCallback, BriefPrinter)):
            if self.pop_callback(printer):
                self.add_callback(brief())

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Cross-entropy over the answer tokens plus the weighted balance loss, from the model's own forward."""
        if self.tally.layers:
            inputs["output_router_logits"] = True
        labels = inputs.pop("labels")[:, 1:]
        # Logits for answers only: with a vocabulary of 150,000 they would otherwise be most of the memory.
        kept = (labels != IGNORED).any(dim=0).nonzero().squeeze(1)
        outputs = model(**inputs, use_cache=False, logits_to_keep=kept)
        targets = labels[:, kept]
        unwrapped = self.accelerator.unwrap_model(model)
        if len(kept):
            loss = unwrapped.loss_function(
                logits=outputs.logits,
                labels=None,
                shift_labels=targets,
                vocab_size=outputs.logits.shape[-1],
                num_items_in_batch=num_items_in_batch,
            )
        else:  # no answers, as in coarse distillation: 0, with a graph
            loss = outputs.logits.sum()
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients; the count is over all processes
        if model.training:
            self.tally.add(loss, inputs, outputs.get("router_logits") or (), self.state.global_step)
        if self.aux_loss_enabled:
            # The balance loss is a mean over a micro-batch, and Trainer leaves the averaging to us.
            steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / steps
            self.note("aux_loss", outputs.aux_loss, 1)
        hits = (
            (outputs.logits.detach().argmax(-1) == targets)[targets != IGNORED] if len(kept) else targets.new_zeros(0)
        )
        self.note("mean_token_accuracy", hits.sum(), len(hits))
        return (loss, outputs) if return_outputs else loss

    def note(self, name: str, total: torch.Tensor, count: torch.Tensor | int) -> None:
        """Log `name`, one of `tally.names`, as a mean over all processes, of which this adds `count` values, `total` in sum.
        To be called by every process, if with nothing."""
        part = torch.stack([total.detach().float(), torch.as_tensor(count, device=total.device).float()])
        if self.model.training:
            self.tally.note(name, part)
            return
        total, count = self.accelerator.reduce(part, "sum").tolist()
        if count:
            self._metrics["eval"][name].append(total / count)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, in training with what was tallied since the last time."""
        if self.model.training:
            logs.update(self.tally.take(self.accelerator, self.state.global_step))
        super().log(logs, start_time)

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):
        """Write README.md: origin, data, steps, seed, and how to load the model."""
        if not self.is_world_process_zero():
            return
        where = self.hub_model_id or self.args.output_dir
        name = model_name or os.path.basename(os.path.normpath(where))
        origin = f"Trained from {self.base_model}" if self.base_model else "Trained from scratch"
        text = CARD.format(
            name=name,
            load=LOAD.format(imports=IMPORT if self.is_polyv else "", where=where),
            stage=f"\n\n{self.stage}" if self.stage else "",
            origin=origin,
            datasets=", ".join(self.datasets),
            steps=self.state.global_step,
            batch=self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
            seed=self.args.seed,
        )
        text += EXPERTS if self.tally.layers else ""
        tags = [tags] if isinstance(tags, str) else tags or []
        write_card(self.args.output_dir, text, self.base_model, sorted({*self._tag_names, *tags}))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        # Qwen2.5-VL's checkpoints hold its legacy key names, which Trainer does not translate: it would warn of
        # missing keys and go on from the weights it started with.
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or not isinstance(self.model, PreTrainedModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
        self.model.load_state_dict(saved.state_dict())

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            keep_scene_settings(output_dir or self.args.output_dir, self.data_collator.processor.scenes_kwargs)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        lengths = self.data_collator.lengths(self.train_dataset)
        return EvenBatches(lengths, self.args.train_batch_size * self.args.world_size, self.args.seed)


def keep_scene_settings(folder: str, scenes_kwargs: dict[str, Any]) -> None:
    """Note the size of scene views in the `processor_config.json` of `folder`.

    Qwen2.5-VL's own processor neither reads nor writes it, but `PolyVProcessor.from_pretrained` does: a dense
    checkpoint's scenes are then read alike in training and evaluation.
    """
    path = os.path.join(folder, "processor_config.json")
    with open(path, encoding="utf-8") as file:
        settings = json.load(file)
    write_whole(path, json.dumps({**settings, "scenes_kwargs": scenes_kwargs}, indent=2, sort_keys=True) + "\n")
