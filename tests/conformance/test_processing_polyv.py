# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import unittest

from transformers_tests.test_processing_common import ProcessorTesterMixin

from polyv import PolyVProcessor
from polyv.processing.chat_template_polyv import SCENE_TOKEN
from tests.recipes.conftest import pan
from tests.tiny_tokenizer import build_qwen_processor


class PolyVProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = PolyVProcessor

    @classmethod
    def _setup_from_components(cls):
        parts = build_qwen_processor()
        return PolyVProcessor(parts.image_processor, parts.tokenizer, parts.video_processor)

    # A property of the suite's, from which each test takes its own: it empties the dicts.
    @property
    def video_sampling_expectations(self):
        # 11 frames in 0.37 s, each scaled down to 96x128: a pair makes 12 * 16 patches of 8x8. At least 4 frames by rate.
        pair, all_of_them = {"expected_dim": 0, "output_length": 192}, {"expected_dim": 0, "output_length": 6 * 192}
        return [
            {"num_frames": 3, "fps": None, **pair},
            {"num_frames": None, "fps": 10, **pair, "output_length": 2 * 192},
            {"do_sample_frames": False, "fps": 10, **all_of_them},
            {"do_sample_frames": False, **all_of_them},
            {**pair, "output_length": 2 * 192},
        ]

    @staticmethod
    def does_processor_return_mm_offsets(processor_class, method_name):
        return True  # the suite looks whether the method differs from the parent's; ours is Qwen2.5-VL's, which does

    def test_model_input_names(self):
        """As the suite's, with a scene: `image_coords` are there for scenes alone."""
        processor = self.get_processor()
        text = self.prepare_text_inputs(modalities=["image", "video"]) + SCENE_TOKEN
        media = {"images": self.prepare_images_inputs(), "videos": self.prepare_videos_inputs(), "scenes": pan(2)}
        inputs = processor(text=text, **media, do_sample_frames=False, return_tensors="pt")
        self.assertSetEqual(set(inputs.keys()), set(processor.model_input_names))
