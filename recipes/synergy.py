# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What the two synergy stages share: batches with teachers' features, and the loss of `<synergy>` on them.

Shape suffixes: B rows, S `<synergy>` tokens of the batch, R regions, D a teacher's feature size.
"""

import json
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset as HubDataset
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from polyv.modeling_polyv.encodings import PolyVSynergyHead
from polyv.modeling_polyv.modeling_polyv import PolyVForConditionalGeneration
from polyv.processing.processing_polyv import PolyVProcessor
from polyv.recipes.collator import IGNORED, ConversationCollator
from polyv.recipes.data import iter_texts, read_source
from polyv.recipes.rows import MEDIA, RowError, ask_about, is_silent, read_content
from polyv.recipes.targets import Targets
from polyv.recipes.trainer import PolyVTrainer


HEADS = {"temporal": "video", "spatial": "scene"}
"""Of each head, what its teacher sees."""

PROBED = 64
"""How many contents are looked up in a cache before a training begins."""

DRAW = "draw"
"""Of a row in training, what its draws follow from: see `Drawing`."""


@dataclass
class SynergyArguments:
    """What `<synergy>` is to foresee."""

    temporal_targets: str | None = field(
        default=None, metadata={"help": "Cache of a temporal teacher's features (polyv teachers cache)."}
    )
    spatial_targets: str | None = field(default=None, metadata={"help": "Cache of a spatial teacher's features."})
    target_components: int | None = field(
        default=None,
        metadata={
            "help": "Foresee so many principal components of the features, each of variance 1, not every dimension."
        },
    )
    coarse_weight: float = field(default=1.0, metadata={"help": "Weight of L_coarse in the loss."})
    student_sees: list[str] = field(
        default_factory=lambda: list(MEDIA),
        metadata={"help": "Of a content without messages, one of these modalities is drawn for the student to see."},
    )

    def __post_init__(self):
        if not self.student_sees or not set(self.student_sees) <= set(MEDIA):
            raise ValueError(f"student_sees={self.student_sees}: expected some of {', '.join(MEDIA)}.")
        if self.coarse_weight < 0:
            raise ValueError(f"coarse_weight={self.coarse_weight}: expected 0 or more.")

    def load(self, skip: Collection[str] = ()) -> dict[str, Targets]:
        """The caches given, by head.

        Args:
            skip: heads whose cache to leave out.

        Raises:
            ValueError: a cache is of a teacher that sees something else.
        """
        found = {}
        for head, modality in HEADS.items():
            folder = getattr(self, f"{head}_targets")
            if folder is None or head in skip:
                continue
            found[head] = Targets(folder, self.target_components)
            if found[head].modality != modality:
                raise ValueError(
                    f"{head}_targets={folder}: it holds features of {found[head].modality}s by {found[head].teacher}, "
                    f"expected those of a teacher that sees {modality}s."
                )
        return found


class SynergyCollator(ConversationCollator):
    """Conversations as `ConversationCollator` batches them, with the features that their `<synergy>` is to foresee.

    A row's key "content" names the same content in other modalities: {"image": FILE or [FILE, ...], "video": FILE,
    "scene": DIR}. The teachers see those; where a row has no such key, the one video and the one scene that its messages
    show. A row without messages is of content alone: the student sees one medium of it, drawn at random (see `Drawing`), is
    asked one of the row's "prompts", and is told no answer. A key "teachers", like "content", lets the teachers see something
    else: a control (`polyv.recipes.controls`).

    Adds to the batch, for each head with a cache, "temporal_targets" or "spatial_targets" [B, R, D], NaN in the rows
    whose content lacks that modality.

    Args:
        processor, accepts: as `ConversationCollator`.
        targets: the caches, by head.
        modalities: what of its content a student may see.
    """

    def __init__(
        self,
        processor: PolyVProcessor,
        accepts: Iterable[str],
        targets: dict[str, Targets],
        modalities: Sequence[str] = MEDIA,
    ):
        super().__init__(processor, accepts)
        self.targets, self.modalities = targets, tuple(modalities)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        silent = [is_silent(row) for row in rows]
        shown = [
            {**row, "messages": self.ask(row, read_content(row, "content"))} if alone else row
            for row, alone in zip(rows, silent, strict=True)
        ]
        batch = super().__call__(shown)
        batch["labels"][torch.tensor(silent)] = IGNORED
        contents = [read_content(row) for row in rows] if self.targets else []
        for head, targets in self.targets.items():
            batch[f"{head}_targets"] = self.look_up(targets, rows, contents)
        return batch

    def ask(self, row: dict[str, Any], content: dict[str, Any]) -> list[dict[str, Any]]:
        """A conversation about one medium of a content, with an empty answer."""
        if not self.targets:
            raise RowError(
                f"{row.get('source', 'a row')}: it has no messages, and no targets are given, so that it would teach nothing."
            )
        kinds = self._seen(row, content)
        draw = random.Random(row.get(DRAW) or str(row.get("source", row.get("id"))))
        kind = draw.choice(kinds)
        media = content[kind]
        medium = draw.choice(media) if isinstance(media, list) else media
        prompt = draw.choice(row.get("prompts") or [None])
        return ask_about(kind, medium, prompt)

    def _seen(self, row: dict[str, Any], content: dict[str, Any]) -> list[str]:
        """Of a content, what the student may see."""
        kinds = [kind for kind in self.modalities if content.get(kind)]
        if not kinds:
            raise RowError(
                f"{row.get('source', 'a row')}: its content holds {', '.join(content) or 'nothing'}, and the student is to "
                f"see one of {', '.join(self.modalities)}."
            )
        return kinds

    def check(self, rows: HubDataset) -> None:
        """Look, before a training begins, for what would end it hours later, or let it teach nothing.

        Raises:
            RowError: a content holds nothing that the student may see; a cache lacks a content (of `PROBED`, spread over
                all: to look up each, all their files would have to be read).
            ValueError: no row has what a cache is of.
        """
        found: dict[str, list[int]] = {head: [] for head in self.targets}
        known: dict[tuple, set[str]] = {}  # a mixture repeats its shorter parts, many times
        for index, texts in enumerate(iter_texts(rows)):
            if texts not in known:
                known[texts] = _kinds(*texts)
                if texts[0] == "[]":
                    self._seen(rows[index], read_content(rows[index], "content"))
            for head in found:
                if HEADS[head] in known[texts]:
                    found[head].append(index)
        for head, places in found.items():
            if not places:
                raise ValueError(
                    f"{head}_targets={self.targets[head].folder}: none of the {len(rows):,} rows shows or names one "
                    f"{HEADS[head]}, so there is nothing to foresee. Give rows whose 'content' does, or leave it out."
                )
            for index in places[:: -(-len(places) // PROBED)]:
                self.look_up(self.targets[head], [rows[index]], [read_content(rows[index])])

    def _length(
        self, messages: list[dict[str, Any]], rest: dict[tuple, int], read: Callable[[], dict[str, Any]]
    ) -> int:
        return super()._length(messages, rest, read) if messages else 0  # what a silent row shows is not yet drawn

    def look_up(
        self, targets: Targets, rows: Sequence[dict[str, Any]], contents: Sequence[dict[str, Any]]
    ) -> torch.Tensor:
        """[B, R, D]: what the teacher made of each row's content."""
        found = torch.full((len(rows), targets.num_regions, targets.size), torch.nan)
        for index, (row, content) in enumerate(zip(rows, contents, strict=True)):
            medium = content.get(targets.modality)
            if medium is None:
                continue
            try:
                found[index] = targets(medium)
            except (ValueError, OSError) as error:
                raise RowError(f"{row.get('source', 'a row')}: {error}") from error
        return found


def _kinds(messages: str, content: str | None, teachers: str | None) -> set[str]:
    """Of which kinds `read_content` has a medium, by a row's texts alone."""
    if named := teachers or content:
        return {kind for kind, media in json.loads(named).items() if media}
    entries = [entry for message in json.loads(messages) for entry in message["content"]]
    kinds = [entry["type"] for entry in entries if not isinstance(entry.get(entry["type"]), list)]
    return {kind for kind in kinds if kinds.count(kind) == 1}


class Contents(Sequence[Any]):
    """The media of one modality that the contents of datasets consist of, in order, each read when it is asked for.

    Args:
        sources: the datasets.
        modality: "video" or "scene".

    Raises:
        RowError: a row is unfit, see `polyv.recipes.data.read_rows`.
    """

    def __init__(self, sources: Sequence[str], modality: str):
        self.modality = modality
        self._places = [
            (part, index)
            for part in map(read_source, sources)
            for index, texts in enumerate(iter_texts(part))
            if modality in _kinds(*texts)
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place):
        part, index = self._places[place]
        return read_content(part[index])[self.modality]


class Drawing(Dataset):
    """Rows with what to draw by: seed, epoch and place. A content is drawn anew each time that it comes by, in later
    epochs and where a mixture repeats it, at any batch size; and as before where a run is resumed."""

    def __init__(self, rows: Any, seed: int):
        self.rows, self.seed = rows, seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # of workers that outlive an epoch, too

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], DRAW: f"{self.seed} {int(self.epoch)} {index}"}

    def set_epoch(self, epoch: int) -> None:
        """Called at the start of each epoch, see `polyv.recipes.checkpoints.Epochs`."""
        self.epoch.fill_(epoch)


class SynergyTrainer(PolyVTrainer):
    """Adds L_coarse, the squared error of what `<synergy>` foresees of the teachers' features, to `PolyVTrainer`'s loss.

    Each term is the mean over the dimensions of a feature and over all `<synergy>` of the optimizer step that have a
    target, in all micro-batches and processes alike. Features are normalised, so that 1 is what the mean of all
    features would score, and 0 perfect foresight. Rows without answers have no cross-entropy.

    Args:
        coarse_weight: of both terms.
        Otherwise as `PolyVTrainer`.

    Raises:
        ValueError: a head has not the size of its targets, or the model has no `<synergy>`.
    """

    def __init__(self, model: PolyVForConditionalGeneration, *args: Any, coarse_weight: float = 1.0, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        self.coarse_weight = coarse_weight
        self.num_targets: dict[str, torch.Tensor] = {}
        self.tally.names += [f"{head}_loss" for head in self.data_collator.targets]
        self.synergy_id = model.config.synergy_token_id
        self.num_synergy_tokens = model.config.num_synergy_tokens
        for head, targets in self.data_collator.targets.items():
            expected = head_size(targets, self.num_synergy_tokens)
            if getattr(model.config, f"{head}_teacher_size") != expected or self.synergy_id is None:
                raise ValueError(
                    f"{head}_teacher_size={getattr(model.config, f'{head}_teacher_size')}: expected {expected} for the "
                    f"features of {targets.teacher}, and a model with `<synergy>`; see `fit_heads`."
                )

    def _get_dataloader(self, dataset, *args, is_training=False, **kwargs):
        rows = Drawing(dataset, self.args.seed) if is_training else dataset
        return super()._get_dataloader(rows, *args, is_training=is_training, **kwargs)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of a step, and beside the number of answer tokens, those of `<synergy>` with a target."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        for head in self.data_collator.targets:
            count = torch.zeros((), device=device)
            for batch in batches:
                known_B = ~batch[f"{head}_targets"][:, 0, 0].isnan()
                count += (batch["input_ids"] == self.synergy_id)[known_B].sum().to(device)
            count = count * self._foreseeing(batches[0][f"{head}_targets"]) / self.num_synergy_tokens
            self.num_targets[head] = self.accelerator.gather(count).sum().clamp(min=1)
        return batches, num_items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Cross-entropy, the balance loss, and L_coarse."""
        targets = {head: inputs.pop(f"{head}_targets") for head in self.data_collator.targets}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        for head, targets_BRD in targets.items():
            error_S, known_S = self.errors(
                getattr(outputs, f"synergy_{head}"), outputs.synergy_batch_index, targets_BRD
            )
            total = error_S.sum()  # 0 with a graph where nothing is known: the head keeps a gradient in every process
            self.note(f"{head}_loss", total, known_S.sum())
            if model.training and head in self.num_targets:
                # DDP averages gradients over the processes; the count is over all of them.
                total = total / self.num_targets[head] * self.accelerator.num_processes
            else:
                total = total / known_S.sum().clamp(min=1)
            loss = loss + self.coarse_weight * total
        return (loss, outputs) if return_outputs else loss

    def errors(
        self, foreseen_SD: torch.Tensor, rows_S: torch.Tensor, targets_BRD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean squared error of each `<synergy>`, 0 where it has no target, and whether it has one."""
        targets_SRD = targets_BRD.to(foreseen_SD.device)[rows_S]
        place_S = torch.arange(len(rows_S), device=rows_S.device)
        turn_S = place_S % self.num_synergy_tokens
        if self.num_synergy_tokens == 1:
            targets_SD = targets_SRD.flatten(1)
        else:  # a region each; what is left over foresees nothing
            targets_SD = targets_SRD[place_S, turn_S.clamp(max=targets_SRD.shape[1] - 1)]
        known_S = ~targets_SD.isnan().any(-1) & (turn_S < self._foreseeing(targets_BRD))
        error_S = (foreseen_SD.float() - targets_SD.nan_to_num()).square().mean(-1)
        return error_S * known_S, known_S

    def _foreseeing(self, targets_BRD: torch.Tensor) -> int:
        """How many `<synergy>` of a turn have a target."""
        return min(self.num_synergy_tokens, targets_BRD.shape[1])


def head_size(targets: Targets, num_synergy_tokens: int) -> int:
    """How much one `<synergy>` has to foresee: one alone all regions; of several each the next, and those left over
    nothing, which leaves them to the answer.

    Raises:
        ValueError: there are several tokens, but fewer than regions.
    """
    if num_synergy_tokens == 1:
        return targets.num_regions * targets.size
    if targets.num_regions > num_synergy_tokens:
        raise ValueError(
            f"num_synergy_tokens={num_synergy_tokens}: the cache {targets.folder} holds {targets.num_regions} regions; "
            "expected a token for each, or one token for all."
        )
    return targets.size


def fit_heads(
    model: PreTrainedModel, targets: dict[str, Targets], keep: Sequence[str] = (), trainable: str = "full"
) -> None:
    """Give the model heads of its teachers' sizes; one that has its size already stays as it was trained. A head without
    a teacher is frozen: no loss trains it, and weights without a gradient stop processes that train together.

    Args:
        keep: heads to leave as they are.
        trainable: what trains, a word of `polyv.recipes.trainable`.

    Raises:
        ValueError: there are targets, and the model has no `<synergy>`; or a head would be new, and "lora" trains.
    """
    if targets and not hasattr(model.config, "num_synergy_tokens"):
        raise ValueError(
            f"model_name_or_path={model.name_or_path}: it is a {type(model).__name__}, which has no `<synergy>` to distil "
            "into. Give a PolyV checkpoint, or add upcycle: true."
        )
    hidden_size = model.config.get_text_config().hidden_size
    for head in HEADS:
        name = f"{head}_head"
        if head in targets:
            size = head_size(targets[head], model.config.num_synergy_tokens)
            if getattr(model.config, f"{head}_teacher_size") != size or getattr(model, name) is None:
                if trainable == "lora":
                    raise ValueError(
                        f"trainable='lora': the synergy heads of {model.name_or_path} are not of the size of these targets, "
                        "and an adapter cannot carry others. Distil in full first (polyv train distill), or leave the "
                        "targets out."
                    )
                fresh = PolyVSynergyHead(hidden_size, size)
                fresh.apply(model._init_weights)
                setattr(model, name, fresh.to(model.device, model.dtype))
                setattr(model.config, f"{head}_teacher_size", size)
        elif head not in keep and isinstance(getattr(model, name, None), nn.Module):
            getattr(model, name).requires_grad_(False)


__all__ = ["SynergyArguments", "SynergyCollator", "SynergyTrainer", "fit_heads", "head_size"]
