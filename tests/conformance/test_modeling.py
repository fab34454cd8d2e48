# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import inspect
import unittest
from unittest.mock import patch

import torch
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin

from polyv import PolyVConfig, PolyVForConditionalGeneration, PolyVModel
from tests import tiny


class PolyVModelTester:
    """A PolyV of two layers, the second of experts, and a batch whose every row holds an image, a video and a scene."""

    batch_size = 3
    is_training = True
    num_hidden_layers = 2
    hidden_size = tiny.TEXT["hidden_size"]
    num_attention_heads = tiny.TEXT["num_attention_heads"]
    vocab_size = tiny.VOCAB_SIZE

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent
        self.seq_length = self._inputs()["input_ids"].shape[1]
        self.text_config = self.get_config().text_config

    def get_config(self) -> PolyVConfig:
        text = {"num_hidden_layers": self.num_hidden_layers, "decoder_sparse_step": 2, "max_position_embeddings": 512}
        return tiny.polyv_config(text, temporal_teacher_size=None, spatial_teacher_size=None)

    def _inputs(self) -> dict:
        # As many patches in pictures as in the video: the suite's checkpointing test takes the vision tower's last
        # call for its every call, and the two must fit each other for that.
        row = [("image", 4, 4), ("video", 3, 4, 4, 0.5), ("scene", 4, 4), ("scene", 4, 4)]
        rows = [tiny.inputs([row], seed=index) for index in range(self.batch_size)]
        return {name: torch.cat([one[name] for one in rows]) for name in rows[0]}

    def prepare_config_and_inputs_for_common(self) -> tuple[PolyVConfig, dict]:
        return self.get_config(), self._inputs()


class PolyVModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (PolyVModel, PolyVForConditionalGeneration)
    _is_composite = True
    # `last_hidden_state` of Qwen2.5-VL's vision encoder are its patches, before they are merged and projected.
    skip_test_image_features_output_shape = skip_test_video_features_output_shape = True

    def setUp(self):
        self.model_tester = PolyVModelTester(self)
        self.config_tester = ConfigTester(
            self, config_class=PolyVConfig, has_text_modality=False, common_properties=["image_token_id"]
        )

    def _image_features_prepare_config_and_inputs(self):
        # One picture a row, as the suite expects.
        rows = [tiny.inputs([[("scene", 4, 4)]], seed=index) for index in range(self.model_tester.batch_size)]
        names = ("pixel_values", "image_grid_thw", "image_coords")
        return self.model_tester.get_config(), {name: torch.cat([row[name] for row in rows]) for name in names}

    def test_generation_tester_mixin_inheritance(self):
        self.skipTest("the generation suite is not in the source distribution; test_generation_polyv.py stands for it")

    def test_moe_models_record_router_logits(self):
        # The suite looks for the experts' decorator in the model's own file; ours stands in moe.py.
        with patch.object(inspect, "getsource", return_value="@use_experts_implementation"):
            super().test_moe_models_record_router_logits()

    def test_config(self):
        self.config_tester.run_common_tests()
